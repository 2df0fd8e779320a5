"""Files as they were found, and what differs."""

import hashlib
from pathlib import Path

import pytest

from kit.errors import IntegrityError
from kit.upstream.files import (
    LIMIT_BYTES,
    Difference,
    Found,
    belongs,
    difference,
    left_by_use,
    read_folder,
    require_same,
)

CONTENT = {"LICENSE": b"free", "code/a.py": b"a", "code/deep/b.py": b"b"}
EXPECTED = {name: hashlib.sha256(data).hexdigest() for name, data in CONTENT.items()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, data in CONTENT.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path


def found(root: Path) -> Difference:
    return difference(read_folder(root, EXPECTED), EXPECTED)


def test_equal_files(root: Path) -> None:
    read = read_folder(root, EXPECTED)
    assert (dict(read.content), read.extra) == (CONTENT, ())
    assert not difference(read, EXPECTED)
    require_same(read, EXPECTED, "it", "mend it")


def test_what_lies_elsewhere_does_not_count(root: Path) -> None:
    (root / "README.md").write_text("other")
    (root / ".git").mkdir()
    (root / ".git" / "HEAD").write_text("x")
    (root / "code" / "deep" / "__pycache__").mkdir()
    (root / "code" / "deep" / "__pycache__" / "b.cpython-311.pyc").write_text("x")
    (root / "code" / "empty").mkdir()
    assert not found(root)


def test_every_kind_of_difference_is_named(root: Path) -> None:
    (root / "LICENSE").unlink()
    (root / "code" / "a.py").write_bytes(b"A")
    (root / "code" / "deep" / "new.py").write_bytes(b"")
    differs = found(root)
    assert differs == Difference(("LICENSE",), ("code/a.py",), ("code/deep/new.py",))
    assert differs.lines() == [
        "LICENSE is missing",
        "code/a.py differs",
        "code/deep/new.py does not belong there",
    ]
    with pytest.raises(IntegrityError, match=r"it is drifted: LICENSE is missing; code/a\.py") as e:
        require_same(read_folder(root, EXPECTED), EXPECTED, "it", "mend it")
    assert e.value.hint == "mend it"


def test_a_link_is_no_file_of_upstream(root: Path) -> None:
    (root / "code" / "a.py").rename(root / "elsewhere.py")
    (root / "code" / "a.py").symlink_to(root / "elsewhere.py")
    (root / "code" / "link").symlink_to(root / "code" / "deep")
    assert found(root) == Difference(("code/a.py",), (), ("code/a.py", "code/link"))


def test_a_linked_folder_is_not_entered(root: Path) -> None:
    (root / "code").rename(root / "elsewhere")
    (root / "code").symlink_to(root / "elsewhere")
    assert found(root) == Difference(("code/a.py", "code/deep/b.py"), (), ("code",))


def test_nothing_there(tmp_path: Path) -> None:
    assert found(tmp_path / "absent").missing == tuple(EXPECTED)


def test_a_huge_file_is_not_read_whole(root: Path) -> None:
    with (root / "code" / "a.py").open("wb") as file:
        file.truncate(LIMIT_BYTES * 100)
    read = read_folder(root, EXPECTED)
    assert len(read.content["code/a.py"]) == LIMIT_BYTES + 1
    assert difference(read, EXPECTED).changed == ("code/a.py",)


def test_many_differences_are_cut_short() -> None:
    expected = {f"f{number:02}": "0" * 64 for number in range(20)}
    summary = difference(Found({}), expected).summary()
    assert summary.startswith("f00 is missing; f01 is missing")
    assert summary.endswith("f07 is missing; and 12 more")


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("LICENSE", True),
        ("code/new", True),
        ("code", True),
        ("LICENSE.txt", False),
        ("other/code/a.py", False),
        ("code/__pycache__/a.pyc", False),
    ],
)
def test_belongs(path: str, answer: bool) -> None:
    assert belongs(path, EXPECTED) is answer


USED = [
    "examples_deepspeed/iFlytekSpark/infer.log",
    "examples_deepspeed/iFlytekSpark/ds_config_gbs8_mbs1_log1_zero1.json",
    "megatron/data/helpers.cpython-311-x86_64-linux-gnu.so",
    "megatron/fused_kernels/build/build.ninja",
    "megatron/fused_kernels/build/.ninja_log",
    "megatron/fused_kernels/build/scaled_softmax_cuda.cuda.o",
    "megatron/fused_kernels/build/scaled_softmax_cuda.so",
]
FOREIGN = [
    "infer.log",
    "megatron/infer.log",
    "examples_deepspeed/iFlytekSpark/infer.log/hidden.py",
    "examples_deepspeed/iFlytekSpark/ds_config_gbs/x_mbs_log_zero.json",
    "megatron/data/helpers.py",
    "megatron/data/helpers/__init__.py",
    "megatron/data/helpers.x/y.so",
    "megatron/utils.cpython-311-x86_64-linux-gnu.so",
    "megatron/fused_kernels/build/new.py",
    "megatron/fused_kernels/build/deep/new.so",
]


@pytest.mark.parametrize("name", USED)
def test_what_upstreams_scripts_write_is_left_by_use(name: str) -> None:
    assert left_by_use(f"deepspeed-megatron/{name}")
    assert not left_by_use(name)


@pytest.mark.parametrize("name", FOREIGN)
def test_all_else_is_foreign(name: str) -> None:
    assert not left_by_use(f"deepspeed-megatron/{name}")
