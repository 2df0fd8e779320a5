import os

import pytest

from kit.memory.probes.proc import tree_peak_bytes
from kit.memory.timeline import Timeline
from kit.memory.unavailable import Unavailable
from kit.proof.measure import look_again, measure
from kit.runtime.client import Loading, Ready
from kit.units import GIB
from tests import nvml_driver
from tests.timelines import RUN, TIMELINE

READY = Ready("m", "bfloat16", "cuda:0", 64, 1, 1.0, device_peak_bytes=29, host_peak_bytes=7)
HIDDEN = Unavailable("the engine's processes cannot be seen from here")
NOTHING = Timeline(RUN, ())


class Running:
    """A runtime and its service, as far as they are asked."""

    def __init__(self, pids, health):
        self.pids, self.told = pids, health

    def processes(self):
        return self.pids

    def health(self):
        return self.told


def measured(pids, health, device="cuda", timeline=NOTHING):
    both = Running(pids, health)
    return measure(both, both, device, timeline)


def test_processes_that_can_be_seen_are_measured():
    before = tree_peak_bytes(os.getpid())
    found = measured((os.getpid(),), READY, "cpu")
    assert before <= found.host_peak_bytes <= tree_peak_bytes(os.getpid())
    assert found.host_by == "kernel"
    assert isinstance(found.device_peak_bytes, Unavailable)


def test_behind_a_border_the_server_speaks_for_its_own_ram():
    found = measured(HIDDEN, READY)
    assert (found.host_peak_bytes, found.host_by) == (7, "service")


def test_samples_may_have_seen_more_than_is_told_at_the_end():
    found = measured(HIDDEN, READY, timeline=TIMELINE)
    assert (found.host_peak_bytes, found.device_peak_bytes) == (2 * GIB, 27 * GIB)
    ended = measured(HIDDEN, Loading("weights", 0.5), timeline=TIMELINE)
    assert (ended.host_peak_bytes, ended.device_peak_bytes) == (2 * GIB, 27 * GIB)


def test_what_nobody_tells_is_unavailable():
    found = measured(HIDDEN, Loading("weights", 0.5))
    assert found.host_peak_bytes == HIDDEN
    assert HIDDEN.reason in found.device_peak_bytes.reason


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    return nvml_driver.build(tmp_path_factory.mktemp("driver"))


def held_on_the_stub(driver, use, scenario=None):
    """Verdict on a service whose pool's peak is 27 GiB; pid 4711 holds 3 GiB by the stub."""
    code = f"""
from kit.memory.budget import Budget, assess
from kit.memory.timeline import Timeline
from kit.proof.measure import look_again, measure
from kit.runtime.client import Ready
from tests.timelines import RUN, TIMELINE

class Both:
    def __init__(self, pid): self.pid = pid
    def processes(self): return (self.pid,)
    def health(self): return Ready("m", "bfloat16", "cuda:0", 64, 1, 1.0, 27 << 30, 7)

def proof(pid, timeline=Timeline(RUN, ())): return measure(Both(pid), Both(pid), "cuda", timeline)
def again(pid): return look_again(Both(pid), Both(pid), "cuda")
(verdict,) = assess(Budget(None, int(27.5 * (1 << 30))), {use})
print(verdict.passed, verdict.measured_by, verdict)
"""
    return nvml_driver.run(driver, code, scenario).strip()


def test_a_budget_that_torchs_pool_alone_would_keep_is_not_held_without_the_driver(driver):
    for pid, scenario in ((1, None), (4711, "hidden"), (4711, "silent")):
        told = held_on_the_stub(driver, f"proof({pid})", scenario)
        assert told.startswith("False None peak VRAM could not be measured (NVML"), scenario
    assert held_on_the_stub(driver, "proof(4711)").startswith("True driver-by-process peak VRAM")


def test_samples_of_the_gpu_prove_it_but_never_less_than_pool_and_context(driver):
    told = held_on_the_stub(driver, "proof(1, TIMELINE)")
    assert told.startswith("False driver-by-samples peak VRAM 27.59 GiB, 88.0 MiB over")


def test_a_service_that_was_proven_before_is_looked_at_with_the_context_assumed(driver):
    assert held_on_the_stub(driver, "again(1)").startswith("False torch peak VRAM 27.59 GiB")
    assert held_on_the_stub(driver, "again(4711)").startswith("True driver-by-process")


def test_on_a_cpu_there_is_no_vram_to_look_at_again():
    both = Running((os.getpid(),), READY)
    assert isinstance(look_again(both, both, "cpu").device_peak_bytes, Unavailable)
