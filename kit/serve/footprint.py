"""The memory that the server's process and its model take."""

import os

from kit.memory import nvml
from kit.memory.hold import Measured
from kit.memory.proc import ProcessMemory, descendants, process_memory, tree_peak_bytes
from kit.memory.vram import estimated_peak
from kit.serve.model import Model


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
    pid = os.getpid()
    host = tree_peak_bytes(pid)
    held = nvml.processes_bytes({pid, *descendants(pid)})
    pool = model.engine.stats().device_peak_reserved_bytes
    device, by = estimated_peak(held, pool)
    return Measured(host, device, "kernel", by)
