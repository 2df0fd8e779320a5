"""Room: what is needed of memory and disk, what is there, and what neighbours hold of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from kit.errors import EnvironmentNotReady
from kit.memory.plan.line import Basis, Phase, PlanLine, Pool
from kit.memory.plan.torch_build import installed_build
from kit.memory.probes import cgroup, proc
from kit.memory.probes.nvml import Gpu, GpuProcess
from kit.memory.unavailable import Unavailable
from kit.units import format_gib

Limit = Literal["ram", "cgroup", "address space", "vram", "disk"]
"""What stands in the way of taking more."""


@dataclass(frozen=True)
class Room:
    """What is needed of something, and what of it can be had.

    Attributes:
        required: off, where too little is only worth a warning.
    """

    what: str
    free_bytes: int | Unavailable
    need_bytes: int
    remedy: str
    limit: Limit = "ram"
    required: bool = True

    @property
    def problem(self) -> str | None:
        """What is wrong, with need and have; None: it suffices, or it is not known."""
        if isinstance(self.free_bytes, Unavailable) or self.free_bytes >= self.need_bytes:
            return None
        return (
            f"not enough {self.what}: {format_gib(self.need_bytes)} needed, "
            f"{format_gib(self.free_bytes)} there"
        )


def require_room(rooms: Sequence[Room], otherwise: str) -> tuple[str, ...]:
    """Return when there is enough of everything required: warnings for the rest.

    ``otherwise`` says what else can be done, after the remedy.

    Raises:
        EnvironmentNotReady: something is too small; the message names need and have.
    """
    warnings = []
    for room in rooms:
        if isinstance(room.free_bytes, Unavailable):
            warnings.append(f"{room.what} unknown: {room.free_bytes.reason}")
        elif room.problem and room.required:
            raise EnvironmentNotReady(room.problem, hint=f"{room.remedy}; {otherwise}")
        elif room.problem:
            warnings.append(f"{room.problem}; {room.remedy}")
    return tuple(warnings)


# The largest ones; the rest is summed.
_SHOWN = 3


@dataclass(frozen=True)
class Neighbours:
    """What is held by others.

    Attributes:
        line: of the plan's form, held in every phase.
        total_bytes: of the pool.
        what: the pool's name here, such as ``VRAM of NVIDIA L20``.
    """

    line: PlanLine
    total_bytes: int
    what: str

    @property
    def free_bytes(self) -> int:
        """What is left."""
        return self.total_bytes - self.line.size_bytes


def on_gpu(gpu: Gpu) -> Neighbours | Unavailable:
    """What other processes, and the driver, hold of the GPU."""
    if isinstance(gpu.total_bytes, Unavailable):
        return gpu.total_bytes
    if isinstance(gpu.used_bytes, Unavailable):
        return gpu.used_bytes
    listed = () if isinstance(gpu.processes, Unavailable) else gpu.processes
    names = ", ".join(map(_name, listed[:_SHOWN])) or "the driver's own share"
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    line = _line(Pool.DEVICE, gpu.used_bytes, f"by NVML, now: {names}{more}")
    return Neighbours(line, gpu.total_bytes, f"VRAM of {gpu.name}")


def on_gpus(gpus: Sequence[Gpu]) -> Neighbours | Unavailable:
    """The same of several that take an equal share each: as if all were as full as the fullest."""
    found = [on_gpu(gpu) for gpu in gpus]
    known = [each for each in found if isinstance(each, Neighbours)]
    if len(known) < len(found):
        return next(each for each in found if isinstance(each, Unavailable))
    fullest, count = min(known, key=lambda each: each.free_bytes), len(known)
    if count == 1:
        return fullest
    what = f"{count} times that of the fullest"
    line = replace(fullest.line, size_bytes=count * fullest.line.size_bytes)
    line = replace(line, why=f"{what}: {line.why}")
    return Neighbours(line, count * fullest.total_bytes, f"{fullest.what}, {what}")


def on_host() -> Neighbours | Unavailable:
    """What other processes, and the kernel, hold of the RAM, caches that can be dropped apart.

    Where the kernel holds a process of this shell to less than is free of it, it is of that limit.
    """
    total, available = proc.total_ram_bytes(), proc.available_ram_bytes()
    if isinstance(total, Unavailable):
        return total
    if isinstance(available, Unavailable):
        return available
    line = _line(Pool.HOST, total - available, "MemTotal less MemAvailable, now")
    known = [Neighbours(line, total, "RAM"), *_limits()]
    return min(known, key=lambda each: each.free_bytes)


def _limits() -> Iterator[Neighbours]:
    group = cgroup.memory_limit()
    if group is not None and not isinstance(group, Unavailable):
        line = _line(Pool.HOST, group.used_bytes, "in the control group, now")
        yield Neighbours(line, group.limit_bytes, f"memory under {group.source}")
    if (space := proc.address_space_limit_bytes()) is not None:
        reserved = min(space, installed_build().address_space_bytes)
        line = _line(Pool.HOST, reserved, "libraries and thread stacks, which count in full")
        yield Neighbours(line, space, "address space (ulimit -v)")
    if (data := proc.data_limit_bytes()) is not None:
        yield Neighbours(_line(Pool.HOST, 0, "of each process alone"), data, "ulimit -d")
    free = proc.commit_free_bytes()
    if isinstance(free, int):
        yield Neighbours(_line(Pool.HOST, 0, "less what is promised"), free, "CommitLimit")


def _name(process: GpuProcess) -> str:
    name = f"process {process.pid}" if isinstance(process.name, Unavailable) else process.name
    size = process.used_bytes
    return name if isinstance(size, Unavailable) else f"{name} {format_gib(size)}"


def _line(pool: Pool, size_bytes: int, why: str) -> PlanLine:
    return PlanLine("other processes", pool, tuple(Phase), size_bytes, Basis.MEASURED, why)
