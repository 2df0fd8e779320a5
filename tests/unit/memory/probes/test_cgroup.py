import os
import signal
import subprocess
import sys

import pytest

from kit.memory.probes.cgroup import CgroupMemory, CgroupUsage, Group, group_of, memory_limit, usage
from kit.memory.unavailable import Unavailable
from kit.units import MIB

NO_LIMIT_V1 = "9223372036854771712"


def write_v2(root, path, limit, used="100", inactive=30):
    folder = root / "sys/fs/cgroup" / path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 70\ninactive_file {inactive}\n")


def write_v1(root, path, limit, used="100", inactive=30):
    folder = root / "sys/fs/cgroup/memory" / path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"inactive_file 1\ntotal_inactive_file {inactive}\n")


def write_membership(root, text):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(text)


def test_v2(tmp_path):
    write_membership(tmp_path, "0::/user.slice/app\n")
    write_v2(tmp_path, "user.slice/app", 1000)
    found = memory_limit(root=tmp_path)
    source = str(tmp_path / "sys/fs/cgroup/user.slice/app/memory.max")
    assert found == CgroupMemory(limit_bytes=1000, used_bytes=70, source=source)
    assert found.free_bytes == 930


def test_what_is_throttled_at_a_limit_is_held_to_it(tmp_path):
    """Past memory.high nobody is killed, and nothing gets on any more."""
    write_membership(tmp_path, "0::/user.slice/app\n")
    write_v2(tmp_path, "user.slice/app", "max")
    write_v2(tmp_path, "user.slice", 1000)
    high = tmp_path / "sys/fs/cgroup/user.slice/app/memory.high"
    high.write_text("400\n")
    assert memory_limit(root=tmp_path) == CgroupMemory(400, 70, str(high))
    high.write_text("max\n")
    found = memory_limit(root=tmp_path)
    assert isinstance(found, CgroupMemory)
    assert found.limit_bytes == 1000


def test_the_tightest_ancestor_counts(tmp_path):
    write_membership(tmp_path, "0::/outer/inner\n")
    write_v2(tmp_path, "outer/inner", "max")
    write_v2(tmp_path, "outer", 500, used="450", inactive=0)
    found = memory_limit(root=tmp_path)
    assert isinstance(found, CgroupMemory)
    assert (found.limit_bytes, found.free_bytes) == (500, 50)


def test_v1_in_a_container_whose_path_is_the_hosts(tmp_path):
    write_membership(tmp_path, "5:cpu:/docker/abc\n4:memory:/docker/abc\n0::/\n")
    write_v1(tmp_path, "", 2000)
    found = memory_limit(root=tmp_path)
    assert isinstance(found, CgroupMemory)
    assert (found.limit_bytes, found.used_bytes) == (2000, 70)


def test_no_limit(tmp_path):
    write_membership(tmp_path, "4:memory:/a\n0::/a\n")
    write_v1(tmp_path, "a", NO_LIMIT_V1)
    write_v2(tmp_path, "a", "max")
    assert memory_limit(root=tmp_path) is None


def test_over_the_limit_leaves_nothing(tmp_path):
    write_membership(tmp_path, "0::/a\n")
    write_v2(tmp_path, "a", 10, used="100", inactive=0)
    found = memory_limit(root=tmp_path)
    assert isinstance(found, CgroupMemory)
    assert found.free_bytes == 0


def test_no_proc(tmp_path):
    assert isinstance(memory_limit(root=tmp_path), Unavailable)


def test_here():
    assert isinstance(memory_limit(), CgroupMemory | Unavailable | None)


def write_files(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")
    return folder


def test_usage_v2(tmp_path):
    write_membership(tmp_path, "0::/user.slice/app\n")
    folder = write_files(
        tmp_path / "sys/fs/cgroup/user.slice/app",
        memory__current=90,
        memory__peak=100,
        memory__max=100,
        memory__events="low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0",
    )
    group = group_of("self", root=tmp_path)
    assert group == Group(2, folder)
    assert usage(group) == CgroupUsage(90, 100, 100, limit_hits=7, oom_kills=1)


def test_usage_v1(tmp_path):
    write_membership(tmp_path, "9:name=systemd:/x\n4:memory,hugetlb:/a/b\n0::/x\n")
    folder = write_files(
        tmp_path / "sys/fs/cgroup/memory/a/b",
        memory__usage_in_bytes=90,
        memory__max_usage_in_bytes=95,
        memory__limit_in_bytes=NO_LIMIT_V1,
        memory__failcnt=3,
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 2",
    )
    group = group_of("self", root=tmp_path)
    assert group == Group(1, folder)
    assert usage(group) == CgroupUsage(90, 95, None, limit_hits=3, oom_kills=2)


def test_older_kernels_tell_less(tmp_path):
    v2 = write_files(tmp_path / "v2", memory__current=90, memory__max="max", memory__events="max 0")
    found = usage(Group(2, v2))
    assert (found.current_bytes, found.limit_bytes, found.limit_hits) == (90, None, 0)
    assert found.peak_bytes == Unavailable(
        f"{v2}/memory.peak cannot be read (No such file or directory)"
    )
    assert found.oom_kills == Unavailable(f"{v2}/memory.events has no oom_kill")


def test_group_of_a_container_that_sees_the_hosts_path(tmp_path):
    write_membership(tmp_path, "4:memory:/docker/abc\n")
    folder = write_files(tmp_path / "sys/fs/cgroup/memory", memory__usage_in_bytes=1)
    assert group_of("self", root=tmp_path) == Group(1, folder)


def test_group_of_nobody(tmp_path):
    assert isinstance(group_of(4711, root=tmp_path), Unavailable)
    write_membership(tmp_path, "0::/\n")
    assert isinstance(group_of("self", root=tmp_path), Unavailable)


def test_the_real_group():
    group = group_of("self")
    if isinstance(group, Unavailable):
        pytest.skip(group.reason)
    found = usage(group)
    assert isinstance(found.current_bytes, int)
    if isinstance(found.peak_bytes, int):
        assert found.peak_bytes > MIB
    assert group_of(os.getpid()) == group


@pytest.fixture
def small_group():
    """A real control group with a limit of 64 MiB, inside that of this process."""
    parent = group_of("self")
    if isinstance(parent, Unavailable):
        pytest.skip(parent.reason)
    folder = parent.folder / f"kit-test-{os.getpid()}"
    limit, swap = {
        1: ("memory.limit_in_bytes", ("memory.memsw.limit_in_bytes", 64 * MIB)),
        2: ("memory.max", ("memory.swap.max", 0)),
    }[parent.version]
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"control groups cannot be made here ({error.strerror})")
    try:
        (folder / limit).write_text(str(64 * MIB))
        if (folder / swap[0]).exists():
            (folder / swap[0]).write_text(str(swap[1]))
        yield Group(parent.version, folder)
    except OSError as error:
        pytest.skip(f"control groups cannot be limited here ({error.strerror})")
    finally:
        folder.rmdir()


def test_a_real_kill_is_counted(small_group):
    assert usage(small_group).oom_kills == 0
    join = f"open({str(small_group.folder / 'cgroup.procs')!r}, 'w').write('0')"
    take = "held = bytearray(256 << 20)"
    done = subprocess.run([sys.executable, "-c", f"{join}; {take}"], check=False)
    assert done.returncode == -signal.SIGKILL
    found = usage(small_group)
    assert found.limit_bytes == 64 * MIB
    assert found.oom_kills == 1
    if isinstance(found.peak_bytes, int):
        assert 32 * MIB < found.peak_bytes <= 64 * MIB
