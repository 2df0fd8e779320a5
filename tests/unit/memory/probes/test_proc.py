import os
import subprocess
import sys

import pytest

from kit.memory.probes import proc
from kit.memory.unavailable import Unavailable
from kit.units import KIB, MIB

STATUS = """Name:\tpython
VmPeak:\t  787656 kB
VmHWM:\t  362992 kB
RssAnon:\t  265668 kB
RssFile:\t   97324 kB
RssShmem:\t       8 kB
Threads:\t2
"""


def write_process(root, pid, *, parent=1, status=STATUS, name="python", start=77):
    folder = root / str(pid)
    folder.mkdir(parents=True)
    (folder / "status").write_text(status)
    fields = ["S", str(parent), *["0"] * 17, str(start), "0", "0"]
    (folder / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}\n")


def test_status(tmp_path):
    write_process(tmp_path, 7)
    assert proc.process_memory(7, proc=tmp_path) == proc.ProcessMemory(
        peak_bytes=362992 * KIB,
        anonymous_bytes=265668 * KIB,
        file_bytes=97324 * KIB,
        shared_bytes=8 * KIB,
        address_space_peak_bytes=787656 * KIB,
    )


def test_zombie_has_no_figures(tmp_path):
    write_process(tmp_path, 7, status="Name:\tpython\nState:\tZ (zombie)\n")
    found = proc.process_memory(7, proc=tmp_path)
    assert isinstance(found, Unavailable)
    assert "has ended" in found.reason


def test_ended_process(tmp_path):
    assert isinstance(proc.process_memory(7, proc=tmp_path), Unavailable)
    assert isinstance(proc.process_stat(7, proc=tmp_path), Unavailable)
    assert isinstance(proc.tree_peak_bytes(7, proc=tmp_path), Unavailable)


def test_stat_of_a_process_with_a_nasty_name(tmp_path):
    write_process(tmp_path, 7, parent=3, name="a) S (b", start=4242)
    assert proc.process_stat(7, proc=tmp_path) == proc.ProcessStat("S", 3, 4242)


def test_tree_adds_children_and_grandchildren(tmp_path):
    for pid, parent in ((7, 1), (8, 7), (9, 8), (10, 1)):
        write_process(tmp_path, pid, parent=parent)
    assert set(proc.descendants(7, proc=tmp_path)) == {8, 9}
    assert proc.tree_peak_bytes(7, proc=tmp_path) == 3 * 362992 * KIB


def test_meminfo(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal:  2048 kB\nMemAvailable:   1024 kB\n")
    assert proc.available_ram_bytes(proc=tmp_path) == MIB
    assert proc.total_ram_bytes(proc=tmp_path) == 2 * MIB
    (tmp_path / "meminfo").write_text("MemTotal:  2048 kB\n")
    assert isinstance(proc.available_ram_bytes(proc=tmp_path), Unavailable)
    assert isinstance(proc.total_ram_bytes(proc=tmp_path / "none"), Unavailable)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_real_process_that_takes_memory():
    before = proc.process_memory(os.getpid())
    block = bytearray(os.urandom(1)) * (64 * MIB)
    after = proc.process_memory(os.getpid())
    assert isinstance(before, proc.ProcessMemory)
    assert isinstance(after, proc.ProcessMemory)
    assert after.anonymous_bytes - before.anonymous_bytes > 60 * MIB
    assert after.peak_bytes >= after.anonymous_bytes
    del block


@pytest.mark.parametrize(("option", "asked"), [("-v", "address_space"), ("-d", "data")])
def test_limits_of_a_limited_shell(option, asked):
    code = f"from kit.memory.probes import proc; print(proc.{asked}_limit_bytes())"
    command = f"ulimit {option} 1000000; exec {sys.executable} -c '{code}'"
    found = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert found.stdout == f"{1000000 * KIB}\n"


@pytest.mark.parametrize(("mode", "free"), [("2", 700 * KIB), ("0", None), ("1", None)])
def test_what_the_kernel_still_promises(tmp_path, mode, free):
    (tmp_path / "sys/vm").mkdir(parents=True)
    (tmp_path / "sys/vm/overcommit_memory").write_text(f"{mode}\n")
    (tmp_path / "meminfo").write_text("CommitLimit:  1000 kB\nCommitted_AS:  300 kB\n")
    assert proc.commit_free_bytes(proc=tmp_path) == free
