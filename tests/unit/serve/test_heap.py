import ctypes
import mmap
import os
from pathlib import Path

import pytest

from kit.memory.probes.proc import process_memory
from kit.memory.unavailable import Unavailable
from kit.serve.heap import drop_mapped_weights, give_back, trim_heap
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
    give_back()


def test_mapped_weights_are_dropped_and_read_again(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"w" * 64 * MIB)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as mapped:
        assert mapped[:].count(b"w") == 64 * MIB
        before = mapped_bytes()
        drop_mapped_weights()
        assert before - mapped_bytes() > 48 * MIB
        assert mapped[:].count(b"w") == 64 * MIB


def mapped_bytes() -> int:
    memory = process_memory(os.getpid())
    assert not isinstance(memory, Unavailable)
    return memory.file_bytes
