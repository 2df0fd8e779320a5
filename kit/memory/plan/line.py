"""What a memory plan consists of: lines, each of one pool, with their basis."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from kit.memory.plan.torch_build import TorchBuild

if TYPE_CHECKING:
    from kit.memory.plan.shape import ModelShape  # which needs numpy, and pools are known at once

Device = Literal["cpu", "cuda"]

Engine = Literal["native", "megatron", "cpu-first", "stock"]
"""``megatron`` is the vendored upstream with all its rewrites. The last two are for comparison:
upstream with the published fix of its loading, and upstream as it is."""


class Pool(StrEnum):
    """Which memory a line takes from."""

    DEVICE = "device"
    HOST = "host"
    DISK = "disk"

    @property
    def label(self) -> str:
        """As people call it."""
        return {"device": "VRAM", "host": "host RAM", "disk": "disk"}[self.value]

    @property
    def flag(self) -> str:
        """The option that bounds it; of VRAM and host RAM."""
        return "--max-vram" if self is Pool.DEVICE else "--max-ram"


class Phase(StrEnum):
    """When a line is held."""

    CONVERT = "convert"
    LOAD = "load"
    SERVE = "serve"


class Basis(StrEnum):
    """How a line's figure was found."""

    COMPUTED = "computed"
    MEASURED = "measured"
    ASSUMED = "assumed"


LOADED = (Phase.LOAD, Phase.SERVE)
"""The phases of what stays once it is there."""


@dataclass(frozen=True)
class Serving:
    """What is to be planned.

    Attributes:
        shape: of the weights.
        context: positions of one sequence, prompt and generated tokens together.
        max_sequences: sequences whose KV cache is held at once.
        device: where weights and cache live.
        build: of the torch that serves.
        dtype_bytes: of one number in the KV cache and the activations, and of weights that are no
            integers.
        ranks: processes of upstream that share the model by tensor parallelism, on a GPU each.
    """

    shape: "ModelShape"
    context: int
    max_sequences: int
    device: Device
    build: TorchBuild
    engine: Engine
    dtype_bytes: int
    ranks: int = 1

    @property
    def pool(self) -> Pool:
        """Where weights and cache live."""
        return Pool.DEVICE if self.device == "cuda" else Pool.HOST

    @property
    def kv_bytes_per_position(self) -> int:
        """Keys and values of one position in all layers."""
        return 2 * self.shape.layers * self.shape.hidden * self.dtype_bytes


@dataclass(frozen=True)
class PlanLine:
    """One thing that takes memory: how much, where, when, and how we know."""

    name: str
    pool: Pool
    phases: tuple[Phase, ...]
    size_bytes: int
    basis: Basis
    why: str


@dataclass(frozen=True)
class Plan:
    """Everything that serving takes, for one model, context, concurrency, device and engine.

    All figures are of all processes together, as they are measured: with several ranks, VRAM is the
    sum over their GPUs. What a rank has of its own is counted for each, what they share once.
    """

    device: Device
    context: int
    max_sequences: int
    lines: tuple[PlanLine, ...]
    engine: Engine = "native"
    ranks: int = 1

    def phase_bytes(self, pool: Pool, phase: Phase) -> int:
        """What ``pool`` holds in ``phase``."""
        held = (line for line in self.lines if line.pool is pool and phase in line.phases)
        return sum(line.size_bytes for line in held)

    def peak_bytes(self, pool: Pool) -> int:
        """The most that ``pool`` holds in any phase."""
        return max(self.phase_bytes(pool, phase) for phase in Phase)

    def peak_phase(self, pool: Pool) -> Phase:
        """The phase in which ``pool`` holds the most; the later one of equals."""
        return max(reversed(Phase), key=lambda phase: self.phase_bytes(pool, phase))
