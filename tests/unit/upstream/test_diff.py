"""The diff, as git takes it."""

import subprocess
from pathlib import Path

import pytest

from kit.lock import Lock
from kit.upstream.render import FileDiff, diff_files, render
from kit.upstream.rewrite import Rewrite, Text
from tests.upstream_tree import git

PRISTINE = {
    "LICENSE": b"free\n",
    "deepspeed-megatron/a.py": b"one\ntwo = 1\n" + b"x\n" * 20 + b"last",
    "deepspeed-megatron/b.txt": b"a form\x0cfeed\rand \xe8\xae\xaf\xe9\xa3\x9e\n",
}
REWRITE = Rewrite(
    "all",
    "portability",
    "",
    "",
    {
        "a.py": (Text("two = 1", "two = 2\nthree = 3"), Text("last", "end")),
        "b.txt": (Text("and", "or"),),
    },
    adds=("__init__.py",),
)


@pytest.fixture
def diffs() -> list[FileDiff]:
    return diff_files(PRISTINE, render(PRISTINE, [REWRITE], Lock("", "", {})))


def test_what_is_counted(diffs: list[FileDiff]) -> None:
    assert [(each.file, each.added, each.removed) for each in diffs][:2] == [
        ("deepspeed-megatron/a.py", 4, 2),
        ("deepspeed-megatron/b.txt", 1, 1),
    ]
    assert diffs[2].file == "deepspeed-megatron/megatron/spark_kit/__init__.py"
    assert diffs[2].removed == 0
    assert "--- /dev/null" in diffs[2].text
    assert all(each.rewrites == ("all",) for each in diffs)


@pytest.mark.parametrize("program", ["git apply", "patch -p1"])
def test_the_diff_makes_the_rewritten_tree(
    program: str, diffs: list[FileDiff], tmp_path: Path
) -> None:
    for name, content in PRISTINE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    git(tmp_path, "init", "--quiet")
    text = "".join(each.text for each in diffs).encode()
    subprocess.run(program.split(), cwd=tmp_path, input=text, check=True, capture_output=True)
    rendered = render(PRISTINE, [REWRITE], Lock("", "", {}))
    for name, content in rendered.content.items():
        assert (tmp_path / name).read_bytes() == content


def test_nothing_changed() -> None:
    assert diff_files(PRISTINE, render(PRISTINE, [], Lock("", "", {}))) == []
