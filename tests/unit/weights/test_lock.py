import hashlib
from pathlib import Path

import pytest

from kit.errors import IntegrityError
from kit.lock import Lock, LockedFile, read_lock, write_lock
from kit.weights.layers import lock_files, update_weights, verify_files

LOCK = Lock(
    "https://example.org/x",
    "10f3",
    {"demo": {"ckpt/b.pt": LockedFile(3, "ab" * 32)}},
    {"code/run.py": "cd" * 32},
)


def test_one_set_of_weights_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "kit.lock"
    write_lock(path, LOCK)
    new = {"c": LockedFile(1, "cd" * 32)}
    update_weights(path, "other", new)
    assert read_lock(path).weights == {**LOCK.weights, "other": new}
    update_weights(path, "demo", new)
    assert read_lock(path).weights == {"demo": new, "other": new}
    assert read_lock(path).upstream_files == LOCK.upstream_files


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
