"""The pretended card refuses what a real one refuses: torch's own checks are all in force."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.pretended_machine import Card, put_in

REFUSED = {
    "no index": (
        "torch.cuda.set_per_process_memory_fraction(0.5, torch.device('cuda'))",
        "ValueError: Expected a torch.device with a specified index",
    ),
    "an integer as fraction": (
        "torch.cuda.set_per_process_memory_fraction(1, torch.device('cuda:0'))",
        "TypeError: Invalid type for fraction",
    ),
    "two devices": (
        "torch.ones(3, device='cuda') + torch.ones(3)",
        "RuntimeError: Expected all tensors to be on the same device",
    ),
    "random numbers of the CPU": (
        "torch.ones(4, device='cuda').multinomial(1, generator=torch.Generator())",
        "RuntimeError: Expected a 'cuda' device type for generator",
    ),
    "numbers without a copy": ("torch.ones(3, device='cuda').numpy()", "TypeError: can't convert"),
    "a second card": ("torch.cuda.synchronize(1)", "AcceleratorError: CUDA error: invalid device"),
    "too much": (
        "torch.empty(1 << 36, dtype=torch.uint8, device='cuda')",
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 65536.00 MiB",
    ),
    "more than its share": (
        "torch.cuda.set_per_process_memory_fraction(0.001, torch.device('cuda:0'));"
        "torch.empty(1 << 25, dtype=torch.uint8, device='cuda')",
        "OutOfMemoryError: CUDA out of memory",
    ),
}


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Card:
    return put_in(tmp_path_factory.mktemp("machine") / "gpu", 24)


def run(card: Card, code: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", f"import torch\n{code}"]
    return subprocess.run(command, env=card.environ, capture_output=True, text=True)


@pytest.mark.parametrize(("code", "words"), REFUSED.values(), ids=REFUSED)
def test_it_refuses(card: Card, code: str, words: str) -> None:
    done = run(card, code)
    assert done.returncode == 1
    assert words in done.stderr.splitlines()[-1]


def test_a_threads_tensors_count_until_they_are_gone(card: Card) -> None:
    code = """
import threading
def hold():
    kept = torch.zeros(1 << 20, dtype=torch.uint8, device="cuda")
    view = kept[5:]
    del kept
    print(torch.cuda.memory_allocated(), view.device, view.sum().item())
thread = threading.Thread(target=hold)
thread.start(); thread.join()
print(torch.cuda.memory_allocated(), torch.cuda.memory_reserved() >= 1 << 20)
torch.cuda.empty_cache()
print(torch.cuda.memory_reserved(), torch.cuda.max_memory_reserved() >= 1 << 20)
"""
    done = run(card, code)
    assert done.stdout.splitlines() == ["1048576 cuda:0 0", "0 True", "0 True"], done.stderr


def test_the_driver_counts_what_the_process_holds(card: Card, tmp_path: Path) -> None:
    code = """
import os
from kit.memory.probes import nvml
kept = torch.zeros(100 << 20, dtype=torch.uint8, device="cuda")
print(nvml.processes_bytes({os.getpid()}) - (100 << 20) >> 20, nvml.gpus()[0].simulated)
"""
    done = run(card, code)
    assert done.stdout == "560 True\n", done.stderr
