"""The C library's heap: freed memory that it has not given back yet."""

import ctypes
import sys


def trim_heap() -> None:
    """Give freed pages back to the system, those in the heap's middle too; only glibc can.

    malloc_trim(3). Without it, large temporary tensors leave holes between those that stay.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(ctypes.c_size_t(0))
