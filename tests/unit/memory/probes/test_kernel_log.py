import os
from pathlib import Path

import pytest

from kit.memory.probes.kernel_log import KMSG, Kill, kills, read_kills
from kit.memory.unavailable import Unavailable
from kit.units import KIB

SIZES = "total-vm:221368kB, anon-rss:50944kB, file-rss:6620kB, shmem-rss:4kB, UID:0 pgtables:168kB"
RECORDS = (
    "6,1,1000000,-;Linux version 6.1",
    f"3,3715,6076716875,-;Memory cgroup out of memory: Killed process 20578 (python3) {SIZES}",
    f"3,3716,7000000000,-;Out of memory: Killed process 20579 (a (b) c) {SIZES}",
    "3,3717,8000000000,-;Out of memory: Kill process 7 (python) score 900 or sacrifice child",
    "4,3718,9000000000,-;user: somebody writes out of memory",
)
HELD = (50944 + 6620 + 4) * KIB


def test_kills_of_groups_and_of_the_machine_and_of_old_kernels():
    assert read_kills(RECORDS) == (
        Kill(20578, 6076.716875, "group", HELD),
        Kill(20579, 7000.0, "machine", HELD),
        Kill(7, 8000.0, "machine", 0),
    )


def test_no_log(tmp_path):
    assert isinstance(kills(path=tmp_path / "kmsg"), Unavailable)


@pytest.mark.skipif(not os.access(KMSG, os.R_OK), reason="the kernel's log is not ours to read")
def test_this_machines_log():
    assert isinstance(kills(), tuple)


def test_a_log_that_ends(tmp_path: Path):
    path = tmp_path / "kmsg"
    path.write_text(RECORDS[1])
    assert kills(path=path) == read_kills(RECORDS[1:2])
