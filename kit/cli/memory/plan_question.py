"""What `kit memory plan` is asked, and the plans that answer it."""

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from kit.errors import EnvironmentNotReady, UsageError
from kit.memory.plan.fit import CONTEXTS, PRECISIONS, Fitting, serving_limits
from kit.memory.plan.line import Device, Engine, Plan, Pool
from kit.memory.plan.predict import plan_serving
from kit.memory.plan.shape import ModelShape, Precision
from kit.memory.plan.torch_build import CUDA_BUILD, TorchBuild, installed_build
from kit.memory.probes import nvml
from kit.memory.probes.nvml import Gpu
from kit.memory.room import Neighbours, on_gpus, on_host
from kit.memory.unavailable import Unavailable
from kit.units import parse_size
from kit.weights.catalogue import Catalogue
from kit.weights.convert.locate import find_checkpoint
from kit.weights.planned import PUBLISHED, Planned, with_disk

FREE = "free"
_SHARDS = "mp_rank_*.pt"


@dataclass(frozen=True)
class Question:
    """The command line, read. None is decided from the model and the machine.

    Attributes:
        target: the model as it was named; None: the published one, or one that is only described.
        named: whether that is a name of the catalogue.
        gpus: of this machine, in CUDA's order.
        dtype_bytes: of one number while it serves.
        ranks: processes that upstream's code shares the checkpoint among.
    """

    planned: Planned
    precision: Precision | None
    context: int | None
    max_sequences: int | None
    wanted_device: Literal["auto", "cpu", "cuda"]
    engine: Engine
    dtype_bytes: int | None
    gpus: tuple[Gpu, ...]
    max_vram_bytes: int | None = None
    max_ram_bytes: int | None = None
    ranks: int = 1
    as_json: bool = False
    target: str | None = None
    named: bool = False

    @cached_property
    def device(self) -> Device:
        """Where it runs. Who speaks of VRAM means a GPU."""
        if self.wanted_device != "auto":
            return self.wanted_device
        return "cuda" if self.gpus or self.max_vram_bytes else "cpu"

    @cached_property
    def shape(self) -> ModelShape:
        """The shape it is served in."""
        return self.planned.shape(self.precision)

    @property
    def build(self) -> TorchBuild:
        """Of torch: the installed one on a CPU; GPUs need the one with CUDA."""
        return installed_build() if self.device == "cpu" else CUDA_BUILD

    def plan(self) -> Plan:
        """The plan, with what is on disk and what a conversion takes."""
        number_bytes = self.dtype_bytes or self.shape.dtype_bytes
        sequences = self.max_sequences or (None if self.engine == "native" else 1)
        limits = serving_limits(
            replace(self.shape, dtype_bytes=number_bytes), self.context, sequences
        )
        plan = plan_serving(
            self.shape,
            context=limits[0],
            max_sequences=limits[1],
            device=self.device,
            build=self.build,
            engine=self.engine,
            dtype_bytes=self.dtype_bytes,
            ranks=self.ranks,
        )
        return with_disk(self.planned, self.shape, plan)

    def fitting(self, room: str) -> Fitting:
        """What is to be fitted into ``room``: a size, or ``free``.

        Raises:
            EnvironmentNotReady: ``free``, and how much that is cannot be told.
            UsageError: it is no size, or the context is impossible.
        """
        if self.dtype_bytes is not None:
            raise UsageError("--fit chooses among stored precisions", hint="leave --dtype out")
        if self.context is not None:
            serving_limits(self.shape, self.context)
        device: Device = self.device
        if room != FREE and self.wanted_device == "auto":
            device = "cuda"
        return Fitting(
            room_bytes=self._free_bytes() if room == FREE else parse_size(room),
            device=device,
            build=installed_build() if device == "cpu" else CUDA_BUILD,
            engine=self.engine,
            ranks=self.ranks,
            contexts=CONTEXTS if self.context is None else (self.context,),
            least_sequences=self.max_sequences or 1,
        )

    def candidates(self) -> dict[str, ModelShape]:
        """The shapes to choose from, the best precision first."""
        served: tuple[Precision, ...] = PRECISIONS if self.engine == "native" else ("bf16",)
        return self.planned.shapes((self.precision,) if self.precision else served)

    def neighbours(self, pool: Pool) -> Neighbours | None:
        """Who else is on this machine; None where it has no such memory, or does not tell."""
        found: Neighbours | Unavailable | None = None
        if pool is Pool.HOST:
            found = on_host()
        elif pool is Pool.DEVICE and len(self.gpus) >= self.ranks:
            found = on_gpus(self.gpus[: self.ranks])
        return None if isinstance(found, Unavailable) else found

    def _free_bytes(self) -> int:
        pool = Pool.DEVICE if self.device == "cuda" else Pool.HOST
        found = self.neighbours(pool)
        if found is None:
            what = "VRAM" if pool is Pool.DEVICE else "RAM"
            raise EnvironmentNotReady(
                f"how much {what} is free here cannot be told",
                hint="name a size, such as --fit 24GiB",
            )
        return found.free_bytes


def count_shards(target: str | None, catalogue: Catalogue) -> int:
    """Files that upstream's checkpoint is cut into, a process each; 1 of what is none.

    Args:
        target: its path, or its name in the catalogue.
    """
    if target in (None, *catalogue.weights):
        files = catalogue.find(target or PUBLISHED).files
        return max(1, sum(Path(name).match(_SHARDS) for name in files))
    path = Path(str(target)).expanduser()
    if not path.exists() or any(path.glob("*.safetensors")):
        return 1
    return len(find_checkpoint(path))


def find_gpus() -> tuple[Gpu, ...]:
    """Those that CUDA would use; none where there are none, or they do not answer."""
    found = nvml.gpus()
    return () if isinstance(found, Unavailable) else nvml.visible(found, os.environ)
