"""Before the first byte: is there room for the download, its conversion, and for serving it?"""

import os
from collections.abc import Sequence
from pathlib import Path

from kit.memory.plan.fit import PRECISIONS, serving_limits
from kit.memory.plan.line import Phase, Plan, Pool
from kit.memory.plan.predict import plan_serving
from kit.memory.plan.torch_build import CUDA_BUILD
from kit.memory.probes import proc
from kit.memory.probes.nvml import Gpu
from kit.memory.room import Room
from kit.memory.unavailable import Unavailable
from kit.units import MIB, format_gib
from kit.weights.catalogue import WeightSet
from kit.weights.convert.record import Precision
from kit.weights.planned import architecture_of

PROGRAM_RAM_BYTES = 256 * MIB
"""The kit's own process: 60 MiB seen while downloading, 64 MiB allowed while converting."""


def disk_needs(places: Sequence[tuple[Path, int, str]]) -> tuple[Room, ...]:
    """Room on disk, summed over what goes to the same file system.

    ``places`` are a folder that need not exist yet, bytes to be written there, and for what.
    """
    by_device: dict[int, list[tuple[Path, int, str]]] = {}
    for path, nbytes, purpose in places:
        folder = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
        by_device.setdefault(folder.stat().st_dev, []).append((folder, nbytes, purpose))
    rooms = []
    for entries in by_device.values():
        state = os.statvfs(entries[0][0])
        purposes = " + ".join(f"{format_gib(n)} {purpose}" for _, n, purpose in entries if n)
        rooms.append(
            Room(
                what=f"disk at {entries[0][0]} ({purposes})",
                need_bytes=sum(nbytes for _, nbytes, _ in entries),
                free_bytes=state.f_bavail * state.f_frsize,
                remedy="make room there, or choose another place: --to DIR for the download, "
                "KIT_DATA_DIR for all",
                limit="disk",
            )
        )
    return tuple(rooms)


def memory_needs(
    weights: WeightSet,
    precision: Precision,
    *,
    gpu: Gpu | None,
    gpu_memory_bytes: int | None,
) -> tuple[Room, ...]:
    """RAM for the kit itself; and what serving will take by the plan, with default limits.

    Args:
        precision: to be served in.
        gpu: of this machine, if there is one.
        gpu_memory_bytes: of the GPU that is meant instead, which may be in another machine.
    """
    available = proc.available_ram_bytes()
    rooms = [Room("RAM for this command", available, PROGRAM_RAM_BYTES, "end other programs")]
    plan = serving_plan(weights, precision, on_gpu=gpu is not None or gpu_memory_bytes is not None)
    if plan is None:
        return tuple(rooms)
    if gpu is None and gpu_memory_bytes is None:
        what, peak = "RAM to serve this model on the CPU", plan.peak_bytes(Pool.HOST)
        rooms.append(Room(what, available, peak, "serve it on another machine", required=False))
        return tuple(rooms)
    remedy = "choose a --precision of fewer bits, or a larger GPU"
    peak = plan.peak_bytes(Pool.DEVICE)
    if gpu_memory_bytes is not None:
        rooms.append(Room("VRAM (--gpu-memory)", gpu_memory_bytes, peak, remedy, "vram"))
    elif gpu is not None:
        held = plan.phase_bytes(Pool.HOST, Phase.SERVE)
        rooms.append(Room(f"VRAM on {gpu.name}", gpu.total_bytes, peak, remedy, "vram"))
        rooms.append(Room("RAM to serve this model", available, held, "end other programs"))
    return tuple(rooms)


def choose_precision(
    weights: WeightSet, *, gpu: Gpu | None, gpu_memory_bytes: int | None
) -> Precision:
    """The most bits that fit the GPU by the plan; bf16 where there is no GPU, or no plan.

    Args:
        gpu: of this machine, if there is one.
        gpu_memory_bytes: of the GPU that is meant instead.
    """
    room = gpu_memory_bytes or (gpu.total_bytes if gpu else None)
    if room is None or isinstance(room, Unavailable):
        return "bf16"
    for precision in PRECISIONS:
        plan = serving_plan(weights, precision, on_gpu=True)
        if plan is None or plan.peak_bytes(Pool.DEVICE) <= room:
            return precision
    return PRECISIONS[-1]


def converted_bytes(weights: WeightSet, precision: Precision) -> int | None:
    """What the converted tensors will take; None where the set's shape is not known."""
    if weights.shape is None:
        return None
    return architecture_of(weights.shape).at(precision).weights_bytes


def serving_plan(weights: WeightSet, precision: Precision, *, on_gpu: bool) -> Plan | None:
    """The plan of serving the set with default limits; None where its shape is not known."""
    if weights.shape is None:
        return None
    shape = architecture_of(weights.shape).at(precision)
    context, sequences = serving_limits(shape)
    return plan_serving(
        shape,
        context=context,
        max_sequences=sequences,
        device="cuda" if on_gpu else "cpu",
        build=CUDA_BUILD,
    )
