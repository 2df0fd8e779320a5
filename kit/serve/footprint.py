"""The memory that the server's process and its model take."""

import os

from kit.memory.proc import process_memory
from kit.memory.unavailable import Unavailable
from kit.serve.model import Model


def memory_figures(model: Model) -> dict[str, int | None]:
    """Figures in bytes; None where this machine cannot tell.

    host_peak_bytes is the resident peak (VmHWM), host_private_bytes what is resident now and not
    backed by a file (RssAnon), device_peak_bytes the peak of torch's pool.
    """
    host = process_memory(os.getpid())
    if isinstance(host, Unavailable):
        peak_bytes = private_bytes = None
    else:
        peak_bytes, private_bytes = host.peak_bytes, host.anonymous_bytes
    return {
        "host_peak_bytes": peak_bytes,
        "host_private_bytes": private_bytes,
        "device_peak_bytes": model.engine.stats().device_peak_reserved_bytes,
        "weights_bytes": model.info.weights_bytes,
        "kv_cache_bytes": model.info.kv_cache_bytes,
    }
