"""Writing a tree."""

import os
from pathlib import Path

import pytest

from kit.errors import EnvironmentNotReady
from kit.upstream.files import write_tree


def tree(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def test_whatever_was_there_is_replaced(tmp_path: Path) -> None:
    write_tree(tmp_path / "t", {"a": b"1", "b/c": b"2"})
    assert tree(tmp_path) == {"t/a": b"1", "t/b/c": b"2"}
    (tmp_path / ".t.partial" / "b").mkdir(parents=True)
    (tmp_path / ".t.partial" / "b" / "left").write_text("by an interrupted call")
    (tmp_path / ".t.replaced").mkdir()
    write_tree(tmp_path / "t", {"b/d": b"3"})
    assert tree(tmp_path) == {"t/b/d": b"3"}
    assert (tmp_path / "t").stat().st_mode & 0o777 == 0o755


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentNotReady, match=f"cannot write .*{os.sep}file"):
        write_tree(tmp_path / "file" / "t", {"a": b""})
