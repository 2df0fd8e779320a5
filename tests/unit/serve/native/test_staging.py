"""The ring that a GPU is loaded through, run on the CPU."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from kit.bench.fresh_process import measure
from kit.errors import IntegrityError
from kit.memory.probes.pagecache import cached_bytes, evict
from kit.serve.native import staging
from kit.serve.native.staging import Ring, stage

CPU = torch.device("cpu")
TENSORS = {
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0, 3),
    "odd": torch.arange(7, dtype=torch.int8),
    "matrix": torch.randn(37, 19),
    "half": torch.randn(5, 4, 3).to(torch.bfloat16),
    "packed": torch.arange(100, dtype=torch.int32).reshape(10, 10),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(buffers=st.integers(1, 5), buffer_bytes=st.integers(1, 5000))
def test_every_byte_arrives_whatever_the_ring(file: Path, buffers: int, buffer_bytes: int) -> None:
    with Ring(CPU, buffers, buffer_bytes) as ring:
        found = dict(stage(file, ring))
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_one_ring_for_several_files(file: Path) -> None:
    with Ring(CPU, 2, 64) as ring:
        first, second = dict(stage(file, ring)), dict(stage(file, ring))
    assert all(torch.equal(first[name], second[name]) for name in TENSORS)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is cached")
def test_the_page_cache_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.arange(10_000_000)}, path)
    with Ring(CPU, 2, 2**20) as ring:
        before = cached_bytes(path)
        assert before == path.stat().st_size // 4096 * 4096 + 4096
        staged = dict(stage(path, ring))
        assert cached_bytes(path) == before
        if evict(path):
            pytest.skip("this file system keeps files in memory")
        again = dict(stage(path, ring))
        assert torch.equal(again["x"], staged["x"])
        left = cached_bytes(path)
        assert isinstance(left, int)
        assert left < 40_000_000  # the header, with what the kernel read behind it


def test_a_file_cut_meanwhile(file: Path) -> None:
    with Ring(CPU, 2, 64) as ring, pytest.raises(IntegrityError, match="became shorter"):
        for _ in stage(file, ring):
            with file.open("r+b") as opened:
                opened.truncate(file.stat().st_size - 1000)


def test_a_consumer_that_stops_leaves_no_reader_behind(file: Path) -> None:
    with Ring(CPU, 3, 64) as ring:
        for _ in stage(file, ring):
            break
        again = dict(stage(file, ring))
    assert torch.equal(again["matrix"], TENSORS["matrix"])


CHILD = """
import sys
from pathlib import Path
import torch
from kit.bench.fresh_process import run_job
from kit.serve.native.staging import Ring, stage

def job():
    with Ring(torch.device("cpu")) as ring:
        for name, tensor in stage(Path(sys.argv[1]), ring):
            del tensor

run_job(job)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measures by /proc")
def test_host_memory_is_the_ring(tmp_path: Path) -> None:
    """320 MB in tensors of 40 MB, of which one is there at a time."""
    tensors = {str(number): torch.full((10_000_000,), float(number)) for number in range(8)}
    save_file(tensors, tmp_path / "x.safetensors")
    measured = measure([sys.executable, "-c", CHILD, str(tmp_path / "x.safetensors")], tmp_path)
    ring_bytes = staging.BUFFERS * staging.BUFFER_BYTES
    assert ring_bytes < measured.growth_bytes < ring_bytes + 40 * 10**6 + 16 * 2**20
