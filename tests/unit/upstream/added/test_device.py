import pytest

pytest.importorskip("deepspeed", reason="deepspeed is not installed")

from kit.upstream.added.cpu_first import free_memory, load_on_cpu
from kit.upstream.added.device import current_device, synchronize


def test_the_device_is_deepspeeds():
    import torch

    assert torch.device(current_device()).type in ("cpu", "cuda")
    synchronize()
    free_memory()


def test_load_on_cpu_whatever_was_asked_for(tmp_path):
    import torch

    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt")
    assert load_on_cpu(str(tmp_path / "a.pt"), map_location="meta")["a"].device.type == "cpu"
