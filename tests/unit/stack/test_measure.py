import os

from kit.memory.proc import tree_peak_bytes
from kit.memory.unavailable import Unavailable
from kit.stack.measure import measure
from kit.stack.service import Loading, Ready

READY = Ready("m", "bfloat16", "cuda:0", 64, 1, 1.0, device_peak_bytes=29, host_peak_bytes=7)
HIDDEN = Unavailable("the engine's processes cannot be seen from here")


class Running:
    """A runtime and its service, as far as they are asked."""

    def __init__(self, pids, health):
        self.pids, self.told = pids, health

    def processes(self):
        return self.pids

    def health(self):
        return self.told


def measured(pids, health, device="cuda"):
    both = Running(pids, health)
    return measure(both, both, device)


def test_processes_that_can_be_seen_are_measured():
    before = tree_peak_bytes(os.getpid())
    found = measured((os.getpid(),), READY, "cpu")
    assert before <= found.host_peak_bytes <= tree_peak_bytes(os.getpid())
    assert isinstance(found.device_peak_bytes, Unavailable)


def test_behind_a_border_the_server_speaks_for_itself():
    found = measured(HIDDEN, READY)
    assert (found.host_peak_bytes, found.device_peak_bytes) == (7, 29)


def test_what_nobody_tells_is_unavailable():
    assert measured(HIDDEN, Loading("weights", 0.5)).host_peak_bytes == HIDDEN
    assert measured(HIDDEN, Loading("weights", 0.5)).device_peak_bytes == HIDDEN
