import resource
import subprocess
import sys

from kit.memory.probes.cgroup import group_of as group_of_process
from kit.memory.unavailable import Unavailable
from kit.runtime.bounds import NO_BOUNDS, Bounds, bounds_of, group_of
from kit.units import GIB


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (4 * GIB, 4 * GIB))
    resource.setrlimit(resource.RLIMIT_DATA, (3 * GIB, 3 * GIB))


def test_of_a_limited_process():
    with subprocess.Popen(
        [sys.executable, "-c", "input()"],
        stdin=subprocess.PIPE,
        preexec_fn=_limited,
    ) as process:
        found = bounds_of(process.pid)
        there = group_of_process(process.pid)
        process.communicate(b"\n")
    assert (found.address_space_bytes, found.data_bytes) == (4 * GIB, 3 * GIB)
    expected = None if isinstance(there, Unavailable) else there
    assert group_of(found) == expected


def test_of_a_process_that_is_gone():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert bounds_of(process.pid) == NO_BOUNDS == Bounds()
