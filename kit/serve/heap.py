"""Memory that the process holds and nobody needs, given back to the system."""

import ctypes
import gc
import re
import sys
from pathlib import Path

from kit.units import MIB

_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+ +(/.*\.safetensors)$", re.MULTILINE)
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
"""Of mallopt(3), by glibc's malloc.h."""
_ARENAS = 2
"""Heaps that threads share. By itself glibc makes eight a core, each with holes of its own."""
_MADV_PAGEOUT = 21
"""madvise(2), Linux 5.4: pages of files are dropped, and read again when they are used; what was
written to is kept. An older kernel refuses, which changes nothing."""


def settle_heap() -> None:
    """Make the C library's heap give back what large requests leave: for a server's start.

    What takes a mebibyte or more, as a long body does, is mapped by itself and goes back when it
    is freed. glibc would raise that size to 32 MiB, and keep what lies below it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, MIB)
        mallopt(_M_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """Free what torch's pool on the GPU and the C library's heap keep; drop mapped weights."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    tidy()
    drop_mapped_weights()


def tidy() -> None:
    """Free what is garbage; then give freed pages back."""
    gc.collect()
    trim_heap()


def trim_heap() -> None:
    """Give freed pages back to the system, those in the heap's middle too; only glibc can.

    malloc_trim(3). Without it, large temporary tensors leave holes between those that stay.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(ctypes.c_size_t(0))


def drop_mapped_weights(maps: Path = Path("/proc/self/maps")) -> None:
    """Let the kernel take the pages of mapped ``.safetensors`` files; they are read when needed."""
    try:
        told = maps.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    madvise = ctypes.CDLL(None).madvise
    for start, end, _ in _MAPPING.findall(told):
        first, size = int(start, 16), int(end, 16) - int(start, 16)
        madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), _MADV_PAGEOUT)
