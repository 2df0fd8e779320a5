from kit.memory import proc
from kit.memory.neighbours import on_gpu, on_host
from kit.memory.nvml import Gpu, GpuProcess
from kit.memory.plan import Basis, Pool
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


def test_host(monkeypatch):
    monkeypatch.setattr(proc, "total_ram_bytes", lambda: 24 * GIB)
    monkeypatch.setattr(proc, "available_ram_bytes", lambda: 20 * GIB)
    found = on_host()
    assert (found.line.size_bytes, found.free_bytes) == (4 * GIB, 20 * GIB)
    monkeypatch.setattr(proc, "total_ram_bytes", lambda: HIDDEN)
    assert on_host() is HIDDEN
