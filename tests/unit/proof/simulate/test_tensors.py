"""Tensors without data: refused where a GPU would, and the engine's whole way on them.

Each runs in a process of its own, because a simulation bends torch.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

_START = """
import torch
from kit.proof.simulate.card import pretended_card
from kit.proof.simulate.ledger import Ledger, Place
from kit.proof.simulate.tensors import without_data
ledger = Ledger()
"""
_SAMPLED = """
from dataclasses import replace
from pathlib import Path
from kit.checkpoint.layout import Dimensions
from kit.memory.plan.shape import Architecture
from kit.serve.engine import SamplingParams
from kit.proof.simulate.files import write_converted
from kit.proof.simulate.native import run_native
model = Architecture(Dimensions(2, 256, 512, 8000), max_context=1024, window=512, heads=2)
write_converted(Path({folder!r}), model, {precision!r})
params = SamplingParams(max_tokens=3, temperature=0.7, top_k=20, top_p=0.9, seed=1,
                        top_logprobs=3, min_tokens=2, presence_penalty=1.0, ignore_end=True)
step = run_native(ledger, Path({folder!r}), context=600, max_sequences=2, params=params)
print(sorted({{line.partition(":")[0] for line in step.reads}}))
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _START + code]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("precision", ["bf16", "int8", "int4"])
def test_the_engine_samples_without_mixing_devices(tmp_path: Path, precision: str) -> None:
    """Ring, prompt, decode and every sampling filter; values are read in two places only."""
    done = run(_SAMPLED.format(folder=str(tmp_path / "model"), precision=precision))
    assert done.returncode == 0, done.stderr[-2000:]
    assert set(ast.literal_eval(done.stdout)) <= {"next_token.py", "sampling.py"}


def test_devices_that_do_not_go_together_are_refused() -> None:
    code = """
with without_data(ledger):
    torch.ones(2, device="cuda") + torch.ones(2)
"""
    done = run(code)
    assert done.returncode == 1
    assert "cuda:0" in done.stderr and "cpu" in done.stderr


def test_bytes_come_and_go_with_their_storage() -> None:
    code = """
with without_data(ledger):
    whole = torch.empty(1000, 1000, device="cuda")
    view = whole[:10].t()
    del whole
    assert ledger.live[Place.GPU] == 4_000_000, ledger.live
    copy = view.contiguous()
    assert ledger.live[Place.GPU] == 4_040_000, ledger.live
    host = view.cpu()
    assert ledger.live[Place.HOST] == 40_000, ledger.live
    del view, copy, host
    assert ledger.live[Place.GPU] == ledger.live[Place.HOST] == 0, ledger.live
    assert ledger.allocator.allocated_bytes == 0
    assert ledger.allocator.reserved_bytes == 20 * 2**20 + 2 * 2**20
"""
    done = run(code)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_value_that_is_read_is_noted_and_zero() -> None:
    code = """
def hidden(tensor):
    return tensor.sum().item()
with without_data(ledger):
    assert hidden(torch.ones(3, device="cuda")) == 0
print(dict(ledger.step.reads))
"""
    assert run(code).stdout.strip() == "{'<string>:hidden': 1}"


def test_a_card_that_is_not_there_tells_what_the_ledger_counts() -> None:
    code = """
with without_data(ledger), pretended_card(ledger, 24 * 2**30):
    assert torch.cuda.is_available() and torch.cuda.device_count() == 1
    held = torch.empty(30 * 2**20, dtype=torch.uint8, device="cuda")
    assert torch.cuda.memory_allocated() == torch.cuda.memory_reserved() == 30 * 2**20
    assert torch.cuda.mem_get_info() == (24 * 2**30 - 30 * 2**20, 24 * 2**30)
    del held
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() == 0
    assert torch.cuda.max_memory_reserved() == 30 * 2**20
    torch.cuda.set_per_process_memory_fraction(1 / 1024)
    try:
        torch.empty(30 * 2**20, dtype=torch.uint8, device="cuda")
    except torch.OutOfMemoryError as error:
        print(error)
assert not torch.cuda.is_available()
"""
    done = run(code)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "simulated" in done.stdout
