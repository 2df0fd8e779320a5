"""Shards, adapters and exports in processes that may not hold one of their tensors."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.shapes import cut, lora_state, merged, save_shards

CHILD = """
import os, resource, signal, sys
from pathlib import Path
from kit.checkpoint.convert import Conversion, convert_tensors
from kit.checkpoint.lora import read_adapter
from kit.checkpoint.model import read_model
from kit.checkpoint.shards import index_directory
from kit.checkpoint.shard_export import export_shards, upstream_tensors

def limit(extra_bytes):
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    data_bytes = pages * os.sysconf("SC_PAGESIZE") + extra_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, data_bytes))

def shards(folder):
    return sorted(Path(folder).glob("mp_rank_*"))

def convert(base, lora, out, progress=None, **options):
    model, adapter = read_model(shards(base)), read_adapter(shards(lora))
    conversion = Conversion(model.files, model.mappings, "bfloat16", adapter, 2.0)
    convert_tensors(conversion, Path(out), progress=progress, **options)

def export(source, out, ranks, **options):
    Path(out).mkdir()
    paths = [Path(out) / f"mp_rank_{rank:02d}_model_states.pt" for rank in range(ranks)]
    export_shards(upstream_tensors(index_directory(Path(source)))[1], paths, "float32", **options)

def die_after(bytes_read):
    def progress(done_bytes, total_bytes):
        if done_bytes > bytes_read:
            os.kill(os.getpid(), signal.SIGKILL)
    return progress

exec(sys.argv[1])
"""
needs_rlimit = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is Linux's")
LIMIT = "limit(112 * 1024**2)\n"


def child(code: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", CHILD, code]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def large(
    tmp_path_factory: pytest.TempPathFactory, make_state: Callable[..., Any]
) -> tuple[Path, dict[str, Any]]:
    """Four shards of a checkpoint with a matrix of 164 MB, two of an adapter; the checkpoint."""
    folder = tmp_path_factory.mktemp("large")
    state = make_state(layers=1, hidden=512, ffn=40_000, vocab=8)
    save_shards(state, folder / "base", 4)
    save_shards(lora_state(state, 4), folder / "lora", 2)
    return folder, state


@needs_rlimit
def test_shards_and_adapter_whose_tensors_exceed_the_memory_allowed(
    large: tuple[Path, dict[str, Any]], expected: Callable[..., Any], tmp_path: Path
) -> None:
    folder, state = large
    convert = f"convert({str(folder / 'base')!r}, {str(folder / 'lora')!r}"
    result = child(f"{LIMIT}{convert}, {str(tmp_path / 'out')!r})")
    assert result.returncode == 0, result.stderr
    found = load_file(tmp_path / "out" / "model.safetensors")
    wanted = expected(merged(state, lora_state(state, 4), 2.0), torch.bfloat16)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    failed = child(f"{LIMIT}{convert}, {str(tmp_path)!r}, chunk_bytes=10**9)")
    assert "Cannot allocate memory" in failed.stderr


@needs_rlimit
def test_an_export_whose_tensors_exceed_the_memory_allowed(
    large: tuple[Path, dict[str, Any]], converted: Callable[..., Any], tmp_path: Path
) -> None:
    folder, state = large
    converted(sorted((folder / "base").iterdir()), tmp_path / "fp32")
    export = f"export({str(tmp_path / 'fp32')!r}, {str(tmp_path / 'out')!r}, 2"
    result = child(f"{LIMIT}{export})")
    assert result.returncode == 0, result.stderr
    for rank, wanted in enumerate(cut(state, 2)):
        path = tmp_path / "out" / f"mp_rank_{rank:02d}_model_states.pt"
        found = torch.load(path, mmap=True)["module"]["language_model"]["encoder"]
        theirs = wanted["module"]["language_model"]["encoder"]
        assert all(torch.equal(found[name], tensor) for name, tensor in theirs.items())
    shutil.rmtree(tmp_path / "out")
    assert "MemoryError" in child(f"{LIMIT}{export}, chunk_bytes=10**9)").stderr


def test_kill_9_among_shards_and_the_same_call_goes_on(
    make_state: Callable[..., Any], expected: Callable[..., Any], tmp_path: Path
) -> None:
    state = make_state(layers=3, vocab=12)
    base = save_shards(state, tmp_path / "base", 4)
    lora = save_shards(lora_state(state, 2), tmp_path / "lora", 2)
    out = tmp_path / "out"
    size = sum(path.stat().st_size for path in base.iterdir())
    options = "max_shard_bytes=500, chunk_bytes=128"
    finished = []
    for tenths in (2, 5, 8):
        stop = f"die_after({size * tenths // 10})"
        killed = child(f"convert({str(base)!r}, {str(lora)!r}, {str(out)!r}, {stop}, {options})")
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        finished.append(len(list(out.glob("*.safetensors"))))
    assert finished == sorted(set(finished))
    kept = {path.name: path.stat().st_ino for path in sorted(out.glob("*.safetensors"))[:-1]}
    done = child(f"convert({str(base)!r}, {str(lora)!r}, {str(out)!r}, {options})")
    assert done.returncode == 0, done.stderr
    assert kept.items() <= {path.name: path.stat().st_ino for path in out.iterdir()}.items()
    found = {n: t for path in out.glob("*.safetensors") for n, t in load_file(path).items()}
    wanted = expected(merged(state, lora_state(state, 2), 2.0), torch.bfloat16)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
