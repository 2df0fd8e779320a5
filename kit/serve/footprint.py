"""The memory that the server's process and its model take."""

import os
from dataclasses import dataclass, fields

from kit.memory import nvml
from kit.memory.budget import Measured
from kit.memory.proc import ProcessMemory, descendants, process_memory, tree_peak_bytes
from kit.memory.unavailable import Unavailable
from kit.memory.vram import estimated_peak
from kit.serve.model import Model
from kit.units import MIB, format_gib

# What grew by less than that explains no breach.
_WORTH_NAMING_BYTES = 8 * MIB


@dataclass(frozen=True)
class Parts:
    """What the process and its children hold now, in bytes; a GPU's figures are None without one.

    Attributes:
        private: of this process, not backed by a file.
        mapped: pages of files; the kernel can drop them.
        shared: shared memory.
        ranks: all that of other processes of the engine.
        tensors: what live tensors take of torch's pool on the GPU.
        unused: what that pool holds beyond.
    """

    private: int
    mapped: int = 0
    shared: int = 0
    ranks: int = 0
    tensors: int | None = None
    unused: int | None = None

    @property
    def host_bytes(self) -> int:
        """All host RAM."""
        return self.private + self.mapped + self.shared + self.ranks

    def growth_since(self, before: "Parts") -> str:
        """What has grown by enough to be named, such as ``private memory +0.30 GiB``."""
        names = {
            "private": "private memory",
            "mapped": "mapped files",
            "shared": "shared memory",
            "ranks": "the engine's ranks",
            "tensors": "tensors on the GPU",
            "unused": "unused memory of torch's pool",
        }
        grown = [
            f"{names[each.name]} +{format_gib(more)}"
            for each in fields(self)
            if (more := (getattr(self, each.name) or 0) - (getattr(before, each.name) or 0))
            >= _WORTH_NAMING_BYTES
        ]
        return ", ".join(grown)


@dataclass(frozen=True)
class Footprint:
    """What the service takes: its peaks so far, what it holds now, and what that consists of."""

    peaks: Measured
    now: Measured
    parts: Parts


def memory_figures(model: Model) -> dict[str, int | None]:
    """Figures in bytes, of this process and its children; None where this machine cannot tell.

    host_peak_bytes is the resident peak (VmHWM), host_private_bytes what is resident now and not
    backed by a file (RssAnon), host_mapped_bytes the resident pages of files (RssFile);
    device_peak_bytes is the peak of torch's pool, device_reserved_bytes the pool now and
    device_allocated_bytes what live tensors take of it.
    """
    found = map(process_memory, (os.getpid(), *descendants(os.getpid())))
    known = [each for each in found if isinstance(each, ProcessMemory)]
    stats = model.engine.stats()
    return {
        "host_peak_bytes": sum(each.peak_bytes for each in known) or None,
        "host_private_bytes": sum(each.anonymous_bytes for each in known) or None,
        "host_mapped_bytes": sum(each.file_bytes for each in known) or None,
        "device_peak_bytes": stats.device_peak_reserved_bytes,
        "device_reserved_bytes": stats.device_reserved_bytes,
        "device_allocated_bytes": stats.device_allocated_bytes,
        "weights_bytes": model.info.weights_bytes,
        "kv_cache_bytes": model.info.kv_cache_bytes,
    }


def measured_peaks(model: Model) -> Measured:
    """The peaks so far of this process and its children.

    On a GPU it is what NVML counts for them now, or the peak of torch's pool if that is more. Where
    NVML names no processes, as across a container's border, it is the pool and the CUDA context
    that is assumed: enough to see early that a service has grown, which was proven from outside.
    """
    pool = model.engine.stats().device_peak_reserved_bytes
    return _measured(tree_peak_bytes(os.getpid()), pool)


def look(model: Model) -> Footprint:
    """Everything, now."""
    stats = model.engine.stats()
    own = process_memory(os.getpid())
    others = [process_memory(pid) for pid in descendants(os.getpid())]
    known = [each for each in others if isinstance(each, ProcessMemory)]
    reserved, allocated = stats.device_reserved_bytes, stats.device_allocated_bytes
    unused = None if reserved is None or allocated is None else reserved - allocated
    if isinstance(own, Unavailable):
        parts = Parts(0, tensors=allocated, unused=unused)
        return Footprint(measured_peaks(model), _measured(own, reserved), parts)
    parts = Parts(
        private=own.anonymous_bytes,
        mapped=own.file_bytes,
        shared=own.shared_bytes,
        ranks=sum(each.anonymous_bytes + each.file_bytes + each.shared_bytes for each in known),
        tensors=allocated,
        unused=unused,
    )
    return Footprint(measured_peaks(model), _measured(parts.host_bytes, reserved), parts)


def _measured(host: int | Unavailable, pool_bytes: int | None) -> Measured:
    pid = os.getpid()
    held = nvml.processes_bytes({pid, *descendants(pid)})
    device, by = estimated_peak(held, pool_bytes)
    return Measured(host, device, "kernel", by)
