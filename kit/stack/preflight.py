"""Before anything starts: does the plan fit into what is free?"""

from collections.abc import Sequence
from dataclasses import dataclass

from kit.errors import EnvironmentNotReady
from kit.memory import cgroup, proc
from kit.memory.nvml import Gpu
from kit.memory.plan import Phase, Plan, Pool
from kit.memory.torch_build import TorchBuild
from kit.memory.unavailable import Unavailable
from kit.units import format_gib


@dataclass(frozen=True)
class Room:
    """Memory that can still be taken, as one source tells it."""

    what: str
    free_bytes: int | Unavailable
    need_bytes: int
    remedy: str


def rooms(plan: Plan, build: TorchBuild, gpu: Gpu | None) -> tuple[Room, ...]:
    """Every limit that stands before ``plan`` on this machine.

    Host memory is asked for as it is held while serving: file pages that are mapped only while a
    GPU is filled need no room, the kernel drops them.
    """
    need = plan.phase_bytes(Pool.HOST, Phase.SERVE)
    found = [
        Room(
            "RAM (MemAvailable)",
            proc.available_ram_bytes(),
            need,
            "end other programs, or use a machine with more RAM",
        )
    ]
    group = cgroup.memory_limit()
    if isinstance(group, Unavailable):
        found.append(Room("memory under the control group's limit", group, need, ""))
    elif group is not None:
        what = f"memory under the limit in {group.source}"
        found.append(Room(what, group.free_bytes, need, "raise the container's memory limit"))
    address_space = proc.address_space_limit_bytes()
    if address_space is not None:
        what = "address space (ulimit -v)"
        total = need + build.address_space_bytes
        found.append(
            Room(what, address_space, total, "raise it in this shell: ulimit -v unlimited")
        )
    if gpu is not None:
        remedy = "end the programs that hold it: nvidia-smi"
        need = plan.peak_bytes(Pool.DEVICE)
        found.append(Room(f"VRAM on {gpu.name}", gpu.free_bytes, need, remedy))
    return tuple(found)


def require_room(found: Sequence[Room]) -> tuple[str, ...]:
    """Return when all of ``found`` suffices: warnings for those that could not be measured.

    Raises:
        EnvironmentNotReady: something is too small; the message names need and have.
    """
    warnings = []
    for room in found:
        if isinstance(room.free_bytes, Unavailable):
            warnings.append(f"free {room.what} unknown: {room.free_bytes.reason}")
        elif room.free_bytes < room.need_bytes:
            raise EnvironmentNotReady(
                f"not enough {room.what}: the plan needs {format_gib(room.need_bytes)}, "
                f"{format_gib(room.free_bytes)} is free",
                hint=f"{room.remedy}; or ask for less with --context and --max-sequences; "
                "--no-preflight starts it nevertheless",
            )
    return tuple(warnings)
