"""The lock file: stable bytes, and damage that is named."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kit.errors import EnvironmentNotReady, IntegrityError
from kit.lock import Lock, LockedFile, read_lock, read_named_lock, write_lock
from kit.settings import bundled

LOCK = Lock(
    "https://example.org/x",
    "10f3",
    {"demo": {"ckpt/b.pt": LockedFile(3, "ab" * 32)}},
    {"code/run.py": "cd" * 32},
)


@pytest.mark.parametrize("lock", [LOCK, replace(LOCK, upstream_files={})])
def test_bytes_are_stable(lock: Lock, tmp_path: Path) -> None:
    path = tmp_path / "kit.lock"
    write_lock(path, lock)
    first = path.read_bytes()
    assert read_lock(path) == lock
    write_lock(path, read_lock(path))
    assert path.read_bytes() == first
    text = json.dumps(json.loads(first), indent=2, sort_keys=True) + "\n"
    assert first.decode() == text
    assert (b'"files"' in first) is bool(lock.upstream_files)


def test_the_repositorys_lock_is_in_that_form(tmp_path: Path) -> None:
    lock = read_lock(bundled("kit.lock"))
    assert len(lock.commit) == 40
    write_lock(tmp_path / "again", lock)
    assert (tmp_path / "again").read_bytes() == bundled("kit.lock").read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "[]",
        "{}",
        '{"version": 2, "upstream": {"repository": "", "commit": ""}, "weights": {}}',
        '{"version": 1, "upstream": [], "weights": {}}',
        '{"version": 1, "upstream": {"repository": "", "commit": ""}, "weights": {"demo": []}}',
        '{"version": 1, "upstream": {"repository": "", "commit": ""},'
        ' "weights": {"demo": {"a": {"size": 1, "sha256": "short"}}}}',
        '{"version": 1, "upstream": {"repository": "", "commit": ""}, "weights": {}, "new": 1}',
        '{"version": 1, "upstream": {"repository": "", "commit": "", "files": {"a": "short"}},'
        ' "weights": {}}',
        '{"version": 1, "upstream": {"repository": "", "commit": "", "files": ["a"]},'
        ' "weights": {}}',
    ],
)
def test_damaged_locks(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "kit.lock"
    if content is not None:
        path.write_text(content)
    with pytest.raises(IntegrityError, match="missing or damaged") as caught:
        read_lock(path)
    assert caught.value.hint


def test_a_lock_that_the_user_names(tmp_path: Path) -> None:
    path = tmp_path / "my.lock"
    with pytest.raises(EnvironmentNotReady, match=f"there is no {path}") as caught:
        read_named_lock(path, "make it")
    assert caught.value.hint == "make it"
    with pytest.raises(EnvironmentNotReady, match=f"cannot read {tmp_path}: Is a directory"):
        read_named_lock(tmp_path, "make it")
    path.write_text("{}")
    with pytest.raises(IntegrityError, match=f"{path} is no lock, or damaged"):
        read_named_lock(path, "make it")
    write_lock(path, LOCK)
    assert read_named_lock(path, "make it") == LOCK
