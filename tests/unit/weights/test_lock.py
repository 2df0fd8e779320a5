import hashlib
import json
from pathlib import Path

import pytest

from kit.errors import IntegrityError
from kit.settings import bundled
from kit.weights.lock import (
    Lock,
    LockedFile,
    lock_files,
    read_lock,
    update_weights,
    verify_files,
    write_lock,
)

LOCK = Lock("https://example.org/x", "10f3", {"demo": {"ckpt/b.pt": LockedFile(3, "ab" * 32)}})


def test_bytes_are_stable(tmp_path: Path) -> None:
    path = tmp_path / "kit.lock"
    write_lock(path, LOCK)
    first = path.read_bytes()
    assert read_lock(path) == LOCK
    write_lock(path, read_lock(path))
    assert path.read_bytes() == first
    text = json.dumps(json.loads(first), indent=2, sort_keys=True) + "\n"
    assert first.decode() == text


def test_the_repositorys_lock_is_in_that_form(tmp_path: Path) -> None:
    lock = read_lock(bundled("kit.lock"))
    assert len(lock.commit) == 40
    write_lock(tmp_path / "again", lock)
    assert (tmp_path / "again").read_bytes() == bundled("kit.lock").read_bytes()


def test_one_set_of_weights_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "kit.lock"
    write_lock(path, LOCK)
    new = {"c": LockedFile(1, "cd" * 32)}
    update_weights(path, "other", new)
    assert read_lock(path).weights == {**LOCK.weights, "other": new}
    update_weights(path, "demo", new)
    assert read_lock(path).weights == {"demo": new, "other": new}


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
    ],
)
def test_damaged_locks(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "kit.lock"
    if content is not None:
        path.write_text(content)
    with pytest.raises(IntegrityError, match="missing or damaged") as caught:
        read_lock(path)
    assert caught.value.hint


def test_verify_names_file_expected_and_found(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"")
    locked = lock_files(tmp_path, ["a", "b"])
    assert locked["a"] == LockedFile(3, hashlib.sha256(b"abc").hexdigest())
    verify_files(tmp_path, locked)

    (tmp_path / "a").write_bytes(b"abd")
    found, expected = hashlib.sha256(b"abd").hexdigest(), locked["a"].sha256
    with pytest.raises(IntegrityError, match=f"/a has sha256 {found}, {expected} expected"):
        verify_files(tmp_path, locked)
    (tmp_path / "a").write_bytes(b"abcd")
    with pytest.raises(IntegrityError, match="/a has 4 bytes, 3 expected"):
        verify_files(tmp_path, locked)
    (tmp_path / "a").unlink()
    with pytest.raises(IntegrityError, match="/a is missing") as caught:
        verify_files(tmp_path, locked)
    assert caught.value.exit_code == 4
