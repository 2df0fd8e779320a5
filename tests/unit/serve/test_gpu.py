import pytest
import torch

from kit.errors import UsageError
from kit.memory.plan.native import CUDA_CONTEXT_BYTES
from kit.serve.gpu import cap_vram, pool_fraction
from kit.units import GIB


def test_the_pool_gets_the_budget_less_the_cuda_context() -> None:
    assert pool_fraction(30 * GIB, 80 * GIB) == (30 * GIB - CUDA_CONTEXT_BYTES) / (80 * GIB)


def test_a_budget_above_the_card_is_the_card() -> None:
    assert pool_fraction(30 * GIB, 24 * GIB) == 1.0


def test_a_budget_below_the_cuda_context_is_refused() -> None:
    with pytest.raises(UsageError, match="does not hold the CUDA context"):
        pool_fraction(CUDA_CONTEXT_BYTES, 24 * GIB)


def test_a_gpu_is_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    capped: list[tuple[float, torch.device]] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70 * GIB, 80 * GIB))
    monkeypatch.setattr(
        torch.cuda,
        "set_per_process_memory_fraction",
        lambda fraction, device: capped.append((fraction, device)),
    )
    gpu = torch.device("cuda", 0)
    cap_vram(gpu, 30 * GIB)
    cap_vram(gpu, None)
    cap_vram(torch.device("cpu"), 30 * GIB)
    assert capped == [(pool_fraction(30 * GIB, 80 * GIB), gpu)]
