"""Before anything starts: does the plan fit into what is free?"""

from collections.abc import Sequence
from dataclasses import dataclass

from kit.memory import cgroup, nvml, proc, room
from kit.memory.nvml import Gpu
from kit.memory.plan import Phase, Plan, Pool
from kit.memory.room import Room
from kit.memory.torch_build import TorchBuild
from kit.memory.unavailable import Unavailable


@dataclass(frozen=True)
class Held:
    """Memory that comes free when a running service ends."""

    host_bytes: int
    device_bytes: int | Unavailable


NOTHING = Held(0, 0)


def held_by(pid: int) -> Held:
    """What process ``pid`` and its descendants hold that nobody else could take now."""
    pids = (pid, *proc.descendants(pid))
    found = [proc.process_memory(each) for each in pids]
    host = sum(m.anonymous_bytes + m.shared_bytes for m in found if not isinstance(m, Unavailable))
    return Held(host, nvml.processes_bytes(pids))


def rooms(
    plan: Plan, build: TorchBuild, gpu: Gpu | None, freed: Held = NOTHING
) -> tuple[Room, ...]:
    """Every limit that stands before ``plan`` on this machine once ``freed`` has come free.

    Host memory is asked for as it is held while serving: file pages that are mapped only while a
    GPU is filled need no room, the kernel drops them.
    """
    need = plan.phase_bytes(Pool.HOST, Phase.SERVE)
    found = [
        Room(
            "RAM (MemAvailable)",
            _sum(proc.available_ram_bytes(), freed.host_bytes),
            need,
            "end other programs, or use a machine with more RAM",
        )
    ]
    group = cgroup.memory_limit()
    if isinstance(group, Unavailable):
        found.append(Room("memory under the control group's limit", group, need, "", "cgroup"))
    elif group is not None:
        free = _sum(group.free_bytes, freed.host_bytes)
        what = f"free memory under the limit in {group.source}"
        remedy = "raise the container's memory limit"
        found.append(Room(what, free, need, remedy, "cgroup"))
    address_space = proc.address_space_limit_bytes()
    if address_space is not None:
        what = "address space (ulimit -v)"
        total = need + build.address_space_bytes
        remedy = "raise it in this shell: ulimit -v unlimited"
        found.append(Room(what, address_space, total, remedy, "address space"))
    if gpu is not None:
        free = _sum(gpu.free_bytes, freed.device_bytes)
        remedy = "end the programs that hold it: nvidia-smi"
        need = plan.peak_bytes(Pool.DEVICE)
        found.append(Room(f"free VRAM on {gpu.name}", free, need, remedy, "vram"))
    return tuple(found)


def _sum(free: int | Unavailable, freed: int | Unavailable) -> int | Unavailable:
    if isinstance(free, Unavailable):
        return free
    return freed if isinstance(freed, Unavailable) else free + freed


def require_room(found: Sequence[Room]) -> tuple[str, ...]:
    """Return when all of ``found`` suffices: warnings for those that could not be measured.

    Raises:
        EnvironmentNotReady: something is too small; the message names need and have.
    """
    return room.require_room(
        found,
        "or ask for less with --context and --max-sequences; --no-preflight starts it nevertheless",
    )
