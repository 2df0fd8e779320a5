import ctypes
import os

import pytest

from kit.memory.proc import process_memory
from kit.memory.unavailable import Unavailable
from kit.serve.heap import trim_heap
from kit.units import MIB


def private_bytes() -> int:
    memory = process_memory(os.getpid())
    assert not isinstance(memory, Unavailable)
    return memory.anonymous_bytes


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc"
)
def test_freed_memory_below_what_stays_is_given_back():
    blocks = [b"x" * 100_000 for _ in range(2000)]
    held = private_bytes()
    last = blocks.pop()  # stays at the heap's end: what lies below is not given back by itself
    blocks.clear()
    trim_heap()
    assert held - private_bytes() > 150 * MIB
    assert last


def test_it_can_be_called_anywhere():
    trim_heap()
