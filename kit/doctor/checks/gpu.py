"""Area ``gpu``: the driver answers, CUDA may use a GPU, and its memory is free."""

from kit.doctor.check import check, known
from kit.doctor.facts import Facts, Machine
from kit.doctor.finding import (
    Evidence,
    Finding,
    Status,
    cuda,
    failure,
    holders,
    less,
    many,
    passed,
    size,
    skipped,
    warning,
)
from kit.memory.probes.nvml import Gpu, NoDriver, Nvidia, visible
from kit.memory.room import Room
from kit.memory.unavailable import Unavailable

_EXPECTED = "a driver that answers, 525 or later"
_REBOOT = "reboot; or, with no program on the GPU, reload the nvidia kernel modules"
_INSTALL = "install NVIDIA's driver, 580 or later for every build of torch, and reboot"
_REMEDIES = {
    "mismatch": f"the driver was upgraded and the old one is still loaded: {_REBOOT}",
    "lost": "look for Xid in `dmesg`; power the machine off and on; see that the card sits firmly",
    "no permission": "give this user access to /dev/nvidia*; in a container, start it with --gpus",
    "bindings": "install it beside the kit: pip install nvidia-ml-py",
}


@check("gpu.driver", "NVIDIA's driver answers and has a GPU", reads=["nvidia", "machine"])
def driver(facts: Facts) -> Finding:
    """A machine without a GPU is worth a warning, one with a card that cannot be used a failure."""
    found = facts.nvidia
    if isinstance(found, Unavailable):
        return _no_driver(found, facts.machine)
    if not found.gpus:
        return failure(
            f"driver {found.driver} has no GPU",
            Evidence("NVML", "0 GPUs", "at least 1"),
            remedy="look at `lspci -d 10de:` and for Xid in `dmesg`; in a virtual machine, pass a "
            "GPU through; in a container, start it with --gpus all",
        )
    names = ", ".join(dict.fromkeys(gpu.name for gpu in found.gpus))
    count = many(len(found.gpus), "GPU")
    return passed(f"driver {found.driver}, {cuda(found.cuda)}: {count} ({names})")


def _no_driver(found: Unavailable, machine: Machine | Unavailable) -> Finding:
    seen = [Evidence("NVML", found.reason, _EXPECTED)]
    cause = found.cause if isinstance(found, NoDriver) else "failed"
    if isinstance(machine, Unavailable):
        machine = Machine("unknown", "unknown", machine, 0, frozenset())
    cards, module = ", ".join(machine.nvidia_cards), machine.nvidia_module
    if cards:
        seen.append(Evidence("PCI bus", f"NVIDIA at {cards}", "a driver for it"))
    if module:
        seen.append(Evidence("/proc/driver/nvidia/version", f"module {module}", "as the library"))
    if cause in _REMEDIES:
        return failure(f"the GPU cannot be used: {found.reason}", *seen, remedy=_REMEDIES[cause])
    if not (cards or module):
        remedy = "for iFlytekSpark-13B use a machine with an NVIDIA GPU; the demo needs none"
        if machine.wsl:
            remedy = "install NVIDIA's driver in Windows, not in WSL: it brings libcuda along"
        return warning("no NVIDIA GPU: models run on the CPU", *seen, remedy=remedy)
    if machine.container:
        remedy = "start the container with --gpus all, on a host with NVIDIA Container Toolkit"
        return failure("this container does not see the machine's GPU", *seen, remedy=remedy)
    if machine.nouveau:
        seen.append(Evidence("/sys/module", "nouveau is loaded", "NVIDIA's module instead"))
        remedy = f"{_INSTALL}; its installer blacklists nouveau, which holds the card now"
        return failure("the card is held by nouveau, which has no CUDA", *seen, remedy=remedy)
    return failure("there is an NVIDIA card and no driver that answers", *seen, remedy=_INSTALL)


@check("gpu.lost", "every GPU answers", reads=["nvidia"], requires=["gpu.driver"])
def lost(facts: Facts) -> Finding:
    """A card that fell off the bus. Those that still answer are looked at nevertheless."""
    nvidia = known(facts.nvidia)
    if not nvidia.lost:
        return passed("none was lost")
    return warning(
        f"{many(len(nvidia.lost), 'GPU')} cannot be used, {len(nvidia.gpus)} can",
        *(Evidence("NVML", told, "a GPU that answers") for told in nvidia.lost),
        remedy=_REMEDIES["lost"],
    )


@check("gpu.visible", "CUDA may use a GPU", reads=["nvidia", "environ"], requires=["gpu.driver"])
def may_be_used(facts: Facts) -> Finding:
    """CUDA_VISIBLE_DEVICES hides none of them all, and MIG mode has an instance."""
    nvidia = known(facts.nvidia)
    chosen = visible(nvidia.gpus, facts.environ)
    if chosen:
        return passed(f"CUDA uses {chosen[0].name} ({chosen[0].uuid[:12]})")
    names = facts.environ.get("CUDA_VISIBLE_DEVICES")
    if names is not None:
        uuids = ", ".join(each.uuid for gpu in nvidia.gpus for each in (gpu.instances or (gpu,)))
        return warning(
            "CUDA_VISIBLE_DEVICES hides every GPU: models run on the CPU",
            Evidence("CUDA_VISIBLE_DEVICES", repr(names), f"unset, or one of: {uuids}"),
            remedy="unset CUDA_VISIBLE_DEVICES, or name a GPU by index or UUID (nvidia-smi -L)",
        )
    return failure(
        "the GPU is in MIG mode and has no instance that CUDA could use",
        Evidence("NVML", "MIG enabled, 0 instances", "an instance, or MIG disabled"),
        remedy="make an instance: sudo nvidia-smi mig -cgi PROFILE -C; or sudo nvidia-smi -mig 0",
    )


@check(
    "gpu.memory",
    "the plan fits into the GPU's free memory",
    reads=["nvidia", "serving", "environ"],
    requires=["gpu.visible"],
)
def memory(facts: Facts) -> Finding:
    """Free VRAM against the plan, card by card; where it is short, who holds the rest."""
    serving = known(facts.serving)
    rooms = [room for room in serving.rooms if room.limit == "vram"]
    if not rooms:
        return skipped(f"{serving.name} is served on the CPU")
    nvidia = known(facts.nvidia)
    cards = zip(serving.gpus, rooms, strict=True)
    several = len(rooms) > 1
    what = f"a rank of {serving.name}" if several else serving.name
    found = [_on_card(nvidia, gpu, room, what, several=several) for gpu, room in cards]
    for status in (Status.FAIL, Status.WARN):
        if (first := next((one for one in found if one.status is status), None)) is not None:
            return first
    if not several:
        return found[0]
    return passed(f"{size(rooms[0].need_bytes)} planned for each of {len(rooms)} GPUs, and free")


def _on_card(nvidia: Nvidia, gpu: Gpu, room: Room, what: str, *, several: bool) -> Finding:
    gpu = _with_processes(nvidia, gpu)
    need = f"{size(room.need_bytes)} planned for {what}"
    free = f"{size(room.free_bytes)} of {size(gpu.total_bytes)} free"
    if isinstance(room.free_bytes, Unavailable):
        return warning(
            f"free VRAM on {gpu.name} is unknown",
            Evidence("NVML", room.free_bytes.reason, need),
            remedy="watch nvidia-smi while it starts; kit up measures its peak nevertheless",
        )
    if room.problem is None:
        listed = isinstance(gpu.processes, tuple) and bool(gpu.processes)
        others = f"; the rest: {holders(gpu)}" if listed else ""
        return passed(f"{free} on {gpu.name}, {need}{others}")
    seen = (Evidence("NVML", free, need), Evidence("NVML, held by", holders(gpu), "nobody else"))
    other = None if several else _with_room(nvidia, room.need_bytes)
    if other is not None:
        remedy = f"use {other.name}, which has {size(other.free_bytes)} free: KIT_GPU={other.index}"
    elif isinstance(gpu.total_bytes, int) and gpu.total_bytes < room.need_bytes:
        remedy = "a larger GPU, or fewer bits: kit weights convert --precision int8 (or int4)"
    else:
        remedy = less(room.remedy)
    fits = "kit memory plan --fit free says what fits"
    return failure(room.problem, *seen, remedy=f"{remedy}; {fits}")


def _with_room(nvidia: Nvidia, need_bytes: int) -> Gpu | None:
    """A GPU of this machine that the plan fits into."""

    def fits(gpu: Gpu) -> bool:
        return isinstance(gpu.free_bytes, int) and gpu.free_bytes >= need_bytes

    return next((gpu for gpu in nvidia.gpus if gpu.instances is None and fits(gpu)), None)


def _with_processes(nvidia: Nvidia, gpu: Gpu) -> Gpu:
    """The GPU as NVML just showed it: of what is about to start, an older look may be known."""
    shown = (each for one in nvidia.gpus for each in (one, *(one.instances or ())))
    return next((each for each in shown if each.uuid == gpu.uuid), gpu)
