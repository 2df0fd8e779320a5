"""The kernel's page cache: how much of a file is in it, and putting it out."""

import ctypes
import mmap
import os
from pathlib import Path
from typing import Final

import numpy as np

from kit.memory.unavailable import Unavailable

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_CACHESTAT: Final = 451
"""System call number on every architecture that Linux 6.5 and later know it on."""


def cached_bytes(path: Path) -> int | Unavailable:
    """Bytes of the file that lie in the page cache, by cachestat(2), else by mincore(2)."""
    if not hasattr(os, "posix_fadvise"):
        return Unavailable("only Linux tells what its page cache holds")
    try:
        with path.open("rb", buffering=0) as file:
            counts = (ctypes.c_uint64 * 5)()
            whole = (ctypes.c_uint64 * 2)(0, 0)
            if _LIBC.syscall(_CACHESTAT, file.fileno(), whole, counts, 0) == 0:
                return int(counts[0]) * mmap.PAGESIZE
            return _count_resident(file.fileno())
    except OSError as error:
        return Unavailable(f"{path}: {error.strerror}")


def evict(path: Path) -> int | Unavailable:
    """Bring the file to disk and out of the page cache; what stayed there nevertheless."""
    with path.open("rb", buffering=0) as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return cached_bytes(path)


def _count_resident(fd: int) -> int:
    size = os.fstat(fd).st_size
    if size == 0:
        return 0
    with mmap.mmap(fd, size, access=mmap.ACCESS_READ) as mapped:
        view = np.frombuffer(mapped, np.uint8)
        pages = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
        failed = _LIBC.mincore(
            ctypes.c_void_p(view.ctypes.data),
            ctypes.c_size_t(size),
            ctypes.c_void_p(pages.ctypes.data),
        )
        del view  # the mapping cannot be closed while it is looked at
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(np.count_nonzero(pages & 1)) * mmap.PAGESIZE
