"""Have the kernel read files into its page cache while a model is mapped from them.

A mapped page that is not there yet is read when it is touched, one fault after the other. Asked
beforehand, the kernel keeps the disk busy, and nothing of it counts as the process's memory.
"""

import contextlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from kit.memory import cgroup, proc
from kit.memory.unavailable import Unavailable
from kit.units import MIB

_STEP_BYTES = MIB // 2
"""A larger request is cut by the kernel: it would read only the start (mm/readahead.c)."""


def read_ahead(files: Sequence[Path]) -> threading.Thread | None:
    """Begin to read ``files`` in their order, in a thread that nobody has to wait for.

    None where they are larger than the memory that is free: they would drive each other out.
    """
    total_bytes = sum(path.stat().st_size for path in files)
    if not hasattr(os, "posix_fadvise") or total_bytes > _free_bytes():
        return None
    thread = threading.Thread(target=_advise, args=(files,), name="read-ahead", daemon=True)
    thread.start()
    return thread


def _advise(files: Sequence[Path]) -> None:
    for path in files:
        with contextlib.suppress(OSError), path.open("rb") as file:
            for offset in range(0, path.stat().st_size, _STEP_BYTES):
                os.posix_fadvise(file.fileno(), offset, _STEP_BYTES, os.POSIX_FADV_WILLNEED)


def _free_bytes() -> int:
    """What the page cache can take; 0 where that is not known."""
    available, group = proc.available_ram_bytes(), cgroup.memory_limit()
    if isinstance(available, Unavailable) or isinstance(group, Unavailable):
        return 0
    return available if group is None else min(available, group.free_bytes)
