from dataclasses import replace

import pytest

from kit.memory.plan.line import Basis, Pool
from kit.memory.plan.torch_build import installed_build
from kit.memory.probes import cgroup, proc
from kit.memory.probes.cgroup import CgroupMemory
from kit.memory.probes.nvml import Gpu, GpuProcess
from kit.memory.room import on_gpu, on_gpus, on_host
from kit.memory.unavailable import Unavailable
from kit.units import GIB

HIDDEN = Unavailable("a container")
L20 = Gpu(0, "GPU-a", "NVIDIA L20", 45 * GIB, 5 * GIB, "580")


def processes(*sizes):
    return tuple(GpuProcess(i, f"p{i}", size) for i, size in enumerate(sizes))


def test_processes_are_named():
    gpu = Gpu(0, "GPU-a", "NVIDIA L20", 45 * GIB, 5 * GIB, "580", (8, 9), processes(4 * GIB, GIB))
    found = on_gpu(gpu)
    assert (found.total_bytes, found.free_bytes, found.what) == (
        45 * GIB,
        40 * GIB,
        "VRAM of NVIDIA L20",
    )
    line = found.line
    assert (line.pool, line.basis, line.size_bytes) == (Pool.DEVICE, Basis.MEASURED, 5 * GIB)
    assert "p0 4.00 GiB, p1 1.00 GiB" in line.why


def test_many_processes_and_such_that_hide():
    listed = (GpuProcess(7, HIDDEN, HIDDEN), *processes(1, 1, 1, 1))
    gpu = Gpu(0, "GPU-a", "NVIDIA L20", 45 * GIB, 5 * GIB, "580", (8, 9), listed)
    found = on_gpu(gpu)
    assert "process 7, p0 0.0 MiB, p1 0.0 MiB and 2 more" in found.line.why


def test_a_gpu_that_nobody_uses():
    assert "the driver's own share" in on_gpu(L20).line.why


def test_figures_that_are_not_told():
    assert on_gpu(Gpu(0, "GPU-a", "GB10", HIDDEN, HIDDEN, "580")) is HIDDEN
    assert on_gpu(Gpu(0, "GPU-a", "GB10", GIB, HIDDEN, "580")) is HIDDEN


def test_of_several_gpus_the_fullest_counts():
    full = replace(L20, index=1, used_bytes=40 * GIB)
    found = on_gpus((L20, full))
    assert (found.free_bytes, found.total_bytes) == (2 * 5 * GIB, 2 * 45 * GIB)
    assert "2 times that of the fullest" in found.what
    assert on_gpus((L20,)) == on_gpu(L20)
    assert on_gpus((L20, replace(L20, used_bytes=HIDDEN))) is HIDDEN


@pytest.fixture
def unlimited(monkeypatch):
    for limit in ("address_space_limit_bytes", "data_limit_bytes", "commit_free_bytes"):
        monkeypatch.setattr(proc, limit, lambda: None)
    monkeypatch.setattr(cgroup, "memory_limit", lambda: None)


def test_host(monkeypatch, unlimited):
    monkeypatch.setattr(proc, "total_ram_bytes", lambda: 24 * GIB)
    monkeypatch.setattr(proc, "available_ram_bytes", lambda: 20 * GIB)
    found = on_host()
    assert (found.line.size_bytes, found.free_bytes) == (4 * GIB, 20 * GIB)
    monkeypatch.setattr(proc, "total_ram_bytes", lambda: HIDDEN)
    assert on_host() is HIDDEN


@pytest.mark.parametrize(
    ("where", "name", "limit", "what", "free"),
    [
        (
            cgroup,
            "memory_limit",
            CgroupMemory(8 * GIB, 2 * GIB, "/g/memory.high"),
            "memory.high",
            6,
        ),
        (proc, "data_limit_bytes", 5 * GIB, "ulimit -d", 5),
        (proc, "commit_free_bytes", 3 * GIB, "CommitLimit", 3),
    ],
)
def test_what_a_process_is_held_to_below_what_is_free(
    monkeypatch, unlimited, where, name, limit, what, free
):
    monkeypatch.setattr(proc, "total_ram_bytes", lambda: 24 * GIB)
    monkeypatch.setattr(proc, "available_ram_bytes", lambda: 20 * GIB)
    monkeypatch.setattr(where, name, lambda: limit)
    found = on_host()
    assert what in found.what
    assert found.free_bytes == free * GIB


def test_the_address_space_holds_libraries_too(monkeypatch, unlimited):
    monkeypatch.setattr(proc, "available_ram_bytes", lambda: 20 * GIB)
    monkeypatch.setattr(proc, "address_space_limit_bytes", lambda: 6 * GIB)
    found = on_host()
    assert found.free_bytes == 6 * GIB - installed_build().address_space_bytes
