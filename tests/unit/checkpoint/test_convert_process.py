"""Conversions in processes of their own: killed in the middle, and short of memory."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kit.bench.fresh_process import measure
from kit.memory.probes.pagecache import evict

CHILD = """
import os, resource, signal, sys, threading
from pathlib import Path
from kit.checkpoint.convert import Conversion, convert_tensors
from kit.checkpoint.model import read_model

source, out, kill_after, extra_bytes, options = sys.argv[1:]

def data_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    return pages * os.sysconf("SC_PAGESIZE")

def progress(done_bytes, total_bytes):
    if done_bytes > int(kill_after):
        os.kill(os.getpid(), signal.SIGKILL)

if int(extra_bytes):
    threading.stack_size(2**18)  # the limit counts what stacks reserve, not what they use
    limit = data_bytes() + int(extra_bytes)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
model = read_model([Path(source)])
options = eval(options)
conversion = Conversion(model.files, model.mappings, options.pop("dtype", "bfloat16"))
convert_tensors(conversion, Path(out), progress=progress, **options)
"""
NEVER = 2**62


def child(
    source: Path, out: Path, *, kill_after: int = NEVER, extra_bytes: int = 0, **options: Any
) -> "subprocess.CompletedProcess[str]":
    arguments = [str(source), str(out), str(kill_after), str(extra_bytes), repr(options)]
    return subprocess.run(
        [sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, check=False
    )


def test_kill_9_at_any_point_and_the_same_command_goes_on(
    save: Callable[..., Path], make_state: Callable[..., Any], expected: Any, tmp_path: Path
) -> None:
    path = save(make_state(layers=3))
    out = tmp_path / "out"
    size = path.stat().st_size
    finished: list[int] = []
    for tenths in (3, 6, 9):
        killed = child(
            path, out, kill_after=size * tenths // 10, max_shard_bytes=500, chunk_bytes=128
        )
        assert killed.returncode == -signal.SIGKILL
        finished.append(len(list(out.glob("*.safetensors"))))
    assert finished == sorted(set(finished))
    done = child(path, out, max_shard_bytes=500, chunk_bytes=128)
    assert done.returncode == 0, done.stderr
    found: dict[str, torch.Tensor] = {}
    for file in out.glob("*.safetensors"):
        found |= load_file(file)
    wanted = expected(torch.load(path), torch.bfloat16)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is Linux's")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_tensor_larger_than_the_memory_allowed(
    save: Callable[..., Path], make_state: Callable[..., Any], tmp_path: Path, dtype: str
) -> None:
    """160 MB of embedding table, in a process whose data may grow by 64 MiB."""
    path = save(make_state(layers=1, hidden=1000, vocab=40_000, ffn=8))
    result = child(path, tmp_path / "out", extra_bytes=64 * 1024**2, dtype=dtype)
    assert result.returncode == 0, result.stderr
    table = load_file(tmp_path / "out" / "model.safetensors")["model.embed_tokens.weight"]
    state = torch.load(path, mmap=True)["module"]["language_model"]
    assert torch.equal(table, state["embedding"]["word_embeddings"]["weight"].to(table.dtype))


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is Linux's")
def test_that_limit_would_stop_a_reader_of_whole_tensors(
    save: Callable[..., Path], make_state: Callable[..., Any], tmp_path: Path
) -> None:
    path = save(make_state(layers=1, hidden=1000, vocab=40_000, ffn=8))
    result = child(path, tmp_path / "out", extra_bytes=64 * 1024**2, chunk_bytes=10**9)
    assert "Cannot allocate memory" in result.stderr


MEASURED = """
import sys
from pathlib import Path
from kit.checkpoint.convert import Conversion, convert_tensors
from kit.checkpoint.model import read_model
from kit.bench.fresh_process import run_job

def job():
    model = read_model([Path(sys.argv[1])])
    convert_tensors(Conversion(model.files, model.mappings), Path(sys.argv[2]))

run_job(job)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measured by /proc and cachestat")
def test_memory_and_page_cache_stay_small(
    save: Callable[..., Path], make_state: Callable[..., Any], tmp_path: Path
) -> None:
    """160 MB of embedding table, forty times the chunk, and its 80 MB in bf16."""
    path = save(make_state(layers=1, hidden=1000, vocab=40_000, ffn=8))
    if evict(path):
        pytest.skip("this file system keeps files in memory")
    command = [sys.executable, "-c", MEASURED, str(path), str(tmp_path / "out")]
    measured = measure(command, tmp_path)
    assert measured.growth_bytes <= 40 * 2**20
    assert measured.cached_bytes <= 160 * 10**6  # of 240
