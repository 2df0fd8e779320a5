import weakref

import pytest
import torch

pytest.importorskip("deepspeed", reason="deepspeed is not installed")

from kit.upstream.added.cpu_first import free_memory, load_on_cpu


def test_load_on_cpu_whatever_was_asked_for(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt")
    assert load_on_cpu(str(tmp_path / "a.pt"), map_location="meta")["a"].device.type == "cpu"


def test_free_memory_collects_cycles():
    cycle = [torch.ones(2)]
    cycle.append(cycle)
    gone = weakref.ref(cycle[0])
    del cycle
    free_memory()
    assert gone() is None
