"""Before anything starts: the plan and what is free, an examination of the machine, the port."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kit.errors import EnvironmentNotReady
from kit.memory import room
from kit.memory.plan.line import Phase, Plan, Pool
from kit.memory.plan.torch_build import TorchBuild
from kit.memory.probes import cgroup, nvml, proc
from kit.memory.probes.nvml import Gpu
from kit.memory.room import Room
from kit.memory.unavailable import Unavailable
from kit.runtime.port import require_free
from kit.runtime.protocol import Listener, Running
from kit.service.intent import Intent
from kit.service.recall import Proven, read_history
from kit.units import format_gib


def require_start(
    intent: Intent,
    old: Running | None,
    listener: Listener,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Return when nothing stands in the way of ``intent``, once ``old`` has made room for it.

    Raises:
        EnvironmentNotReady: the plan passes the budget, a check of the doctor failed, or the port
            is taken.
        UsageError: the address is not this machine's.
    """
    plan, spec = intent.plan, intent.spec
    need = f"{format_gib(plan.peak_bytes(Pool.HOST))} host RAM"
    if spec.device == "cuda":
        need += f", {format_gib(plan.peak_bytes(Pool.DEVICE))} VRAM"
    listener.say(f"plan: {need} (context {spec.context}, {spec.max_sequences} at once)")
    leaving = old if old is not None and old.alive else None
    if intent.examine is not None:
        if leaving is not None:
            _require_within_budget(intent)
        listener.progress("checking the machine", None)
        for warning in intent.examine(intent, leaving, environ):
            listener.say(f"warning: {warning}")
    own_port = leaving is not None and leaving.spec.port == spec.port
    require_free(spec.host, 0 if own_port else spec.port)  # 0: is it an address of this machine?


def _require_within_budget(intent: Intent) -> None:
    """Refuse to end a service for one that by its plan passes its budget, unless it once did not.

    Where nothing would end, it may try: the measured peak is what counts.
    """
    plan, budget = intent.plan, intent.spec.budget
    if Proven(intent.runtime, intent.spec) in read_history(intent.settings.state_dir):
        return
    for pool in (Pool.HOST, Pool.DEVICE):
        planned, allowed = plan.peak_bytes(pool), budget.of(pool)
        if allowed is not None and planned > allowed:
            raise EnvironmentNotReady(
                f"the plan is {format_gib(planned)} {pool.label}, over the budget of "
                f"{format_gib(allowed)}",
                hint=f"allow more with {pool.flag}, or ask for less (--context, --max-sequences); "
                "kit memory plan shows every line",
            )


@dataclass(frozen=True)
class Freed:
    """Memory that comes free when a running service ends; ``device_bytes`` by the GPU's index."""

    host_bytes: int
    device_bytes: Mapping[int, int] | Unavailable


NOTHING = Freed(0, {})


def held_by(pid: int) -> Freed:
    """What process ``pid`` and its descendants hold that nobody else could take now."""
    pids = (pid, *proc.descendants(pid))
    found = [proc.process_memory(each) for each in pids]
    host = sum(m.anonymous_bytes + m.shared_bytes for m in found if not isinstance(m, Unavailable))
    return Freed(host, nvml.processes_bytes_by_gpu(pids))


def rooms(
    plan: Plan, build: TorchBuild, gpus: Sequence[Gpu], freed: Freed = NOTHING
) -> tuple[Room, ...]:
    """Every limit that stands before ``plan`` on this machine once ``freed`` has come free.

    Host memory is asked for as it is held while serving: file pages that are mapped only while a
    GPU is filled need no room, the kernel drops them. Each of ``gpus`` takes its rank's share.
    """
    need = plan.phase_bytes(Pool.HOST, Phase.SERVE)
    ram = Room(
        "RAM (MemAvailable)",
        _sum(proc.available_ram_bytes(), freed.host_bytes),
        need,
        "end other programs, or use a machine with more RAM",
    )
    cards = (_vram(plan, gpu, len(gpus), freed) for gpu in gpus)
    return (ram, *_group(need, freed), *_virtual(need, build, freed), *cards)


def _group(need: int, freed: Freed) -> Iterator[Room]:
    group = cgroup.memory_limit()
    if isinstance(group, Unavailable):
        yield Room("memory under the control group's limit", group, need, "", "cgroup")
    elif group is not None:
        free = _sum(group.free_bytes, freed.host_bytes)
        what = f"free memory under the limit in {group.source}"
        remedy = "raise the container's memory limit, or that of the unit or slice"
        yield Room(what, free, need, remedy, "cgroup")


def _virtual(need: int, build: TorchBuild, freed: Freed) -> Iterator[Room]:
    """Limits on what is asked for, whether or not it is used.

    Under ``ulimit -d`` weights count that a CPU reads out of a privately mapped file; thread
    stacks make up for libraries, which are part of the plan and do not count.
    """
    if (limit := proc.address_space_limit_bytes()) is not None:
        what, total = "address space (ulimit -v)", need + build.address_space_bytes
        remedy = "raise it in this shell: ulimit -v unlimited"
        yield Room(what, limit, total, remedy, "address space")
    if (limit := proc.data_limit_bytes()) is not None:
        what, remedy = "private memory (ulimit -d)", "raise it in this shell: ulimit -d unlimited"
        yield Room(what, limit, need, remedy, "address space")
    if (free := proc.commit_free_bytes()) is not None:
        what, remedy = "memory to promise (CommitLimit)", "sudo sysctl vm.overcommit_memory=0"
        yield Room(what, _sum(free, freed.host_bytes), need, remedy, "address space")


def _vram(plan: Plan, gpu: Gpu, ranks: int, freed: Freed) -> Room:
    device = freed.device_bytes
    own = device if isinstance(device, Unavailable) else device.get(gpu.index, 0)
    what = f"free VRAM on {gpu.name}" + (f" (GPU {gpu.index})" if ranks > 1 else "")
    need = -(-plan.peak_bytes(Pool.DEVICE) // ranks)
    remedy = "end the programs that hold it: nvidia-smi"
    return Room(what, _sum(gpu.free_bytes, own), need, remedy, "vram")


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
