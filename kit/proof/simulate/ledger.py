"""Who holds how much, when: live bytes by pool and stage, and a timeline of them."""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from kit.memory.plan.allocator import Allocator, Block, pinned_bytes
from kit.units import MIB

_STEP_BYTES = 4 * MIB
"""A change from which on a moment is noted: a thousandth of a picture's height or less."""


class Stage(StrEnum):
    """What the code does."""

    BUILD = "build"
    LOAD = "load"
    MOVE = "move"
    PROMPT = "prompt"
    DECODE = "decode"


class Place(StrEnum):
    """Where a tensor's bytes are. Mapped ones are pages of a file, which nobody has to keep."""

    GPU = "gpu"
    HOST = "host"
    PINNED = "pinned"
    MAPPED = "mapped"


@dataclass(frozen=True)
class Moment:
    """What is held at one time, in bytes.

    Attributes:
        gpu_bytes: of live tensors.
        reserved_bytes: of torch's pool.
        host_bytes: of live tensors and pinned memory.
        mapped_bytes: of files.
    """

    stage: Stage
    gpu_bytes: int
    reserved_bytes: int
    host_bytes: int
    mapped_bytes: int


@dataclass
class Step:
    """What one decode step did.

    Attributes:
        kernels: operations that launch one on the GPU.
        bytes_moved: read and written by them.
        reads: times that the host waited for a value, by the line that asked.
    """

    kernels: int = 0
    bytes_moved: int = 0
    reads: Counter[str] = field(default_factory=Counter)


@dataclass
class Ledger:
    """Counts what comes and goes.

    Attributes:
        allocator: of the GPU's memory.
        live: bytes of live tensors by pool.
        moments: the timeline.
        peaks: the most of each figure of a moment, by stage.
        step: what is done since :meth:`begin_step`.
    """

    allocator: Allocator = field(default_factory=Allocator)
    stage: Stage = Stage.BUILD
    live: Counter[Place] = field(default_factory=Counter)
    moments: list[Moment] = field(default_factory=list)
    peaks: dict[Stage, Moment] = field(default_factory=dict)
    step: Step = field(default_factory=Step)
    peak_reserved_bytes: int = 0
    peak_allocated_bytes: int = 0
    _noted: tuple[Any, ...] = ()

    def take(self, place: Place, size_bytes: int) -> Block | None:
        """A tensor of ``size_bytes`` is there; what :meth:`give` wants back."""
        block = None
        if place is Place.GPU and size_bytes:
            block = self.allocator.allocate(size_bytes)
        self.live[place] += self._held(place, size_bytes)
        self._note()
        return block

    def give(self, place: Place, size_bytes: int, block: Block | None) -> None:
        """It is gone. Pinned memory stays: torch keeps it for the next who asks."""
        if place is Place.PINNED:
            return
        if block is not None:
            self.allocator.release(block)
        self.live[place] -= size_bytes
        self._note()

    def begin(self, stage: Stage) -> None:
        """From now on it is ``stage``."""
        self._note(anyhow=True)
        self.stage = stage
        self._note(anyhow=True)

    def begin_step(self) -> None:
        """Count a step's kernels anew."""
        self.step = Step()

    def empty_cache(self) -> None:
        """Give free segments back (torch.cuda.empty_cache)."""
        self.allocator.empty_cache()
        self._note()

    def reset_peaks(self) -> None:
        """Forget the pool's peaks (torch.cuda.reset_peak_memory_stats)."""
        self.peak_reserved_bytes = self.allocator.reserved_bytes
        self.peak_allocated_bytes = self.allocator.allocated_bytes

    def _held(self, place: Place, size_bytes: int) -> int:
        return pinned_bytes(size_bytes) if place is Place.PINNED else size_bytes

    def _note(self, anyhow: bool = False) -> None:
        moment = self._moment()
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, moment.reserved_bytes)
        self.peak_allocated_bytes = max(self.peak_allocated_bytes, self.allocator.allocated_bytes)
        most = self.peaks.get(self.stage, moment)
        self.peaks[self.stage] = Moment(
            self.stage,
            max(most.gpu_bytes, moment.gpu_bytes),
            max(most.reserved_bytes, moment.reserved_bytes),
            max(most.host_bytes, moment.host_bytes),
            max(most.mapped_bytes, moment.mapped_bytes),
        )
        if anyhow or not self.moments or _differ(self.moments[-1], moment):
            self.moments.append(moment)

    def _moment(self) -> Moment:
        return Moment(
            self.stage,
            self.live[Place.GPU],
            self.allocator.reserved_bytes,
            self.live[Place.HOST] + self.live[Place.PINNED],
            self.live[Place.MAPPED],
        )


def _differ(one: Moment, other: Moment) -> bool:
    return (
        abs(one.gpu_bytes - other.gpu_bytes) >= _STEP_BYTES
        or abs(one.reserved_bytes - other.reserved_bytes) >= _STEP_BYTES
        or abs(one.host_bytes - other.host_bytes) >= _STEP_BYTES
        or abs(one.mapped_bytes - other.mapped_bytes) >= _STEP_BYTES
    )
