from kit.memory.cgroup import CgroupMemory, memory_limit
from kit.memory.unavailable import Unavailable

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
