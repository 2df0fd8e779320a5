"""Which memory ran out: on literal deaths. Real ones are provoked in tests/e2e/test_deaths.py."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from kit.errors import BudgetExceeded, ServiceError
from kit.memory.probes.kernel_log import Kill
from kit.memory.timeline import Timeline
from kit.memory.unavailable import Unavailable
from kit.runtime import postmortem
from kit.runtime.bounds import NO_BOUNDS, Bounds
from kit.runtime.postmortem import Lived, refused_request
from kit.runtime.protocol import Running, ServeSpec
from kit.units import GIB, MIB
from tests.timelines import RUN, TIMELINE

SPEC = ServeSpec(Path("/m"), "m", "127.0.0.1", 8000, 64, 1, "cuda", max_vram_bytes=30 * GIB)
EARLIER = Unavailable("started by an earlier command")
SILENT = Unavailable("the kernel's log cannot be read")
LIVED = Lived(Timeline(RUN, TIMELINE.samples[:3]), 3 * GIB, frozenset({7, 8}))
CUDA = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 512.00 MiB. GPU 0 has a total "
    "capacity of 79.11 GiB of which {free} is free. Process 9 has 78.00 GiB memory in use."
)


def died(code, log=(), lived=LIVED, kills=(), bounds=NO_BOUNDS, **facts):
    ended = Running(SPEC, False, "process 7", 7, time.time(), code, bounds=bounds, **facts)
    return postmortem.explain(ended, log, lived, kills=lambda: kills)


def kill(pid, scope):
    return (Kill(pid, time.monotonic() + 1, scope, 2 * GIB),)


@pytest.fixture
def group(tmp_path):
    """``group(kills, peak)``: bounds with a control group of version 2, limited to 2 GiB."""

    def make(kills, peak):
        files = {
            "memory.current": 0,
            "memory.peak": peak,
            "memory.max": 2 * GIB,
            "memory.events": f"max 4\noom_kill {kills}",
        }
        for name, content in files.items():
            (tmp_path / name).write_text(f"{content}\n")
        return Bounds(None, str(tmp_path), 2, 0)

    return make


@pytest.mark.parametrize("code", [137, EARLIER])
@pytest.mark.parametrize("pid", [7, 8])
def test_the_machines_memory_by_the_kernels_log(code, pid):
    error = died(code, kills=kill(pid, "machine"))
    assert type(error) is ServiceError
    assert "in phase weights: the machine's memory ran out; it held 2.00 GiB then" in error.message
    assert "seen to hold 2.00 GiB at most, planned 3.00 GiB, budget 4.00 GiB" in error.message


def test_a_control_group_by_the_kernels_log(group, tmp_path):
    error = died(137, kills=kill(7, "group"), bounds=group(1, 2 * GIB))
    assert type(error) is ServiceError
    assert "(exit code 137) in phase weights: its control group" in error.message
    assert f"memory limit of 2.00 GiB ({tmp_path})" in error.message
    assert "raise that limit" in error.hint


def test_a_control_group_by_its_own_count(group):
    assert "its control group reached" in died(137, kills=SILENT, bounds=group(1, 2 * GIB)).message
    assert "its control group reached" in died(EARLIER, bounds=group(1, 2 * GIB)).message


@pytest.mark.parametrize(("kills", "peak"), [(0, 2 * GIB), (1, GIB)])
def test_a_group_that_killed_none_or_had_room_is_not_to_blame(group, kills, peak):
    error = died(137, kills=SILENT, bounds=group(kills, peak))
    assert "most likely by the kernel because memory ran out" in error.message


def test_a_container_at_its_limit():
    error = died(137, out_of_memory=True)
    assert type(error) is BudgetExceeded
    assert "in phase weights: it reached its container's memory limit" in error.message


def test_a_kill_that_nothing_explains():
    error = died(137, kills=())
    assert "killed (SIGKILL) from outside" in error.message
    assert "no lack of memory" in error.message


def test_a_kill_of_others_proves_nothing():
    assert "most likely" in died(137, kills=kill(9, "machine")).message


def test_a_kill_before_the_start_was_another_process():
    old = (Kill(7, time.monotonic() - 60, "machine", 0),)
    assert "from outside" in died(137, kills=old).message


@pytest.mark.parametrize("code", [1, 6, EARLIER])
def test_the_gpu(code):
    error = died(code, [CUDA.format(free="20.00 MiB"), "error: it failed"])
    assert type(error) is ServiceError
    assert "the GPU's memory ran out in phase weights" in error.message
    assert "0.50 GiB more was asked for with 20.0 MiB free" in error.message
    assert "seen to hold 25.00 GiB at most, planned 28.00 GiB, budget 30.00 GiB" in error.message


def test_the_cap_on_the_gpu():
    error = died(1, [CUDA.format(free="50.00 GiB")])
    assert type(error) is BudgetExceeded
    assert "the VRAM budget of 30.00 GiB was used up in phase weights" in error.message
    assert "--max-vram" in error.hint


LIMITED = Bounds(address_space_bytes=3 * GIB + MIB)


@pytest.mark.parametrize(
    ("code", "log"),
    [
        (1, ["MemoryError"]),
        (1, ["ImportError: libtorch_cpu.so: failed to map segment from shared object"]),
        (1, ["RuntimeError: can't start new thread"]),
        (EARLIER, ["OSError: [Errno 12] Cannot allocate memory"]),
        (1, ["ImportError: cannot import name 'Trace' from partially initialized module 'torch'"]),
        (134, []),
        (139, []),
    ],
)
def test_the_address_space(code, log):
    error = died(code, log, bounds=LIMITED)
    assert type(error) is ServiceError
    assert (
        "in phase weights, at the limit on its address space (ulimit -v), 3.00 GiB, of which it "
        "was seen to take 3.00 GiB"
    ) in error.message
    assert "ulimit -v unlimited" in error.hint


def test_the_limit_on_private_memory():
    error = died(1, ["MemoryError"], bounds=Bounds(data_bytes=2 * GIB))
    assert type(error) is ServiceError
    assert "at the limit on its private memory (ulimit -d), 2.00 GiB" in error.message
    assert "ulimit -d unlimited" in error.hint
    assert "it crashed" in died(139, bounds=Bounds(data_bytes=2 * GIB)).message


def test_a_crash_far_from_the_limit_is_a_crash():
    far = replace(LIVED, address_space_peak_bytes=GIB)
    error = died(139, bounds=LIMITED, lived=far)
    assert "it crashed (SIGSEGV)" in error.message
    error = died(1, ["ImportError: no such name"], bounds=LIMITED, lived=far)
    assert "exit code 1 in phase weights: ImportError: no such name" in error.message


def test_without_a_limit_host_memory_ran_out():
    error = died(1, ["MemoryError"])
    assert "host memory ran out; it was seen to hold 2.00 GiB at most" in error.message


def refused(message, bounds=NO_BOUNDS):
    return refused_request(message, Running(SPEC, True, "p", 7, 0.0, EARLIER, bounds=bounds), LIVED)


def test_a_request_that_memory_was_not_there_for():
    assert "GPU's memory ran out" in refused(CUDA.format(free="20.00 MiB")).message
    error = refused("generation failed: could not create a primitive", LIMITED)
    assert error.message.startswith("generation failed: could not create a primitive (it is at the")
    assert refused("generation failed: bad luck") is None
