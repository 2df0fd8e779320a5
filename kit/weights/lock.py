"""The weights' part of ``kit.lock``: files measured for it, and held against it."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from kit.errors import IntegrityError
from kit.lock import LockedFile, read_lock, write_lock
from kit.weights.digest import sha256_file


def lock_files(directory: Path, files: Iterable[str]) -> dict[str, LockedFile]:
    """Measure files, given relative to ``directory``, for a lock."""
    return {
        file: LockedFile((directory / file).stat().st_size, sha256_file(directory / file))
        for file in files
    }


def update_weights(path: Path, name: str, files: Mapping[str, LockedFile]) -> None:
    """Replace one set of weights in the lock file at ``path``; the rest stays."""
    lock = read_lock(path)
    write_lock(path, replace(lock, weights={**lock.weights, name: files}))


def verify_files(directory: Path, locked: Mapping[str, LockedFile]) -> None:
    """Hold every locked file against its size and sha256.

    Raises:
        IntegrityError: a file is missing or differs; it names the file, expected and found.
    """
    for file, expected in locked.items():
        path = directory / file
        hint = "get the file again: git checkout for a bundled one, else download it again"
        if not path.is_file():
            raise IntegrityError(f"{path} is missing", hint=hint)
        if (size_bytes := path.stat().st_size) != expected.size_bytes:
            raise IntegrityError(
                f"{path} has {size_bytes} bytes, {expected.size_bytes} expected", hint=hint
            )
        if (found := sha256_file(path)) != expected.sha256:
            raise IntegrityError(
                f"{path} has sha256 {found}, {expected.sha256} expected", hint=hint
            )
