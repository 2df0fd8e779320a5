"""``kit.lock``: the pinned upstream commit, and the size and sha256 of weights' files.

Format: JSON with sorted keys, two spaces of indent and a final newline, so that the same content is
always the same bytes::

    {"upstream": {"commit": …, "repository": …}, "version": 1,
     "weights": {"demo": {"<relative file>": {"sha256": …, "size": …}}}}

Files that came from elsewhere also say how their sha256 is known, from where and since when:
``"basis": "pointer"`` (a git LFS pointer published it) or ``"observed"`` (it was computed when the
file first arrived), ``"source"`` and ``"date"``.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from kit.checkpoint.journal import write_durably
from kit.errors import IntegrityError
from kit.weights.digest import sha256_file

VERSION = 1
Basis = Literal["pointer", "observed"]
_NOTES = ("source", "date")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class LockedFile:
    """What a file must be.

    Attributes:
        basis, source, date: how, from where and since when (ISO date) ``sha256`` is known; None for
            files that come with the kit.
    """

    size_bytes: int
    sha256: str
    basis: Basis | None = None
    source: str | None = None
    date: str | None = None


@dataclass(frozen=True)
class Lock:
    """The content of ``kit.lock``.

    Attributes:
        repository: upstream's git URL.
        commit: its pinned commit.
        weights: the files of each set of weights, by set name and relative path.
    """

    repository: str
    commit: str
    weights: Mapping[str, Mapping[str, LockedFile]]


def read_lock(path: Path) -> Lock:
    """Read a lock file.

    Raises:
        IntegrityError: it is missing, damaged, or of a newer version.
    """
    try:
        content = json.loads(path.read_bytes())
        if content["version"] != VERSION or content.keys() != {"version", "upstream", "weights"}:
            raise ValueError("unknown version")
        return Lock(
            repository=str(content["upstream"]["repository"]),
            commit=str(content["upstream"]["commit"]),
            weights={
                name: {file: read_entry(entry) for file, entry in files.items()}
                for name, files in content["weights"].items()
            },
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"{path} is missing or damaged",
            hint="the kit's own is restored by git checkout -- kit.lock; "
            "one of yours: from a copy, or remove it and verify what you have",
        ) from error


def write_lock(path: Path, lock: Lock) -> None:
    """Write a lock file, durably; equal locks give equal bytes."""
    write_durably(path, lock_text(lock).encode())


def lock_text(lock: Lock) -> str:
    """The content of a lock file."""
    content = {
        "version": VERSION,
        "upstream": {"repository": lock.repository, "commit": lock.commit},
        "weights": {
            name: {file: locked_entry(locked) for file, locked in files.items()}
            for name, files in lock.weights.items()
        },
    }
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


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


def locked_entry(locked: LockedFile) -> dict[str, Any]:
    """A file's entry in a lock, as JSON."""
    entry = {
        "size": locked.size_bytes,
        "sha256": locked.sha256,
        "basis": locked.basis,
        "source": locked.source,
        "date": locked.date,
    }
    return {key: value for key, value in entry.items() if value is not None}


def read_entry(entry: Any) -> LockedFile:
    """A file's entry out of JSON. Raises ValueError, KeyError or TypeError for anything else."""
    size_bytes, sha256, basis = entry["size"], entry["sha256"], entry.get("basis")
    if type(size_bytes) is not int or size_bytes < 0 or not _SHA256.fullmatch(sha256):
        raise ValueError("size and sha256 expected")
    if basis not in (None, *get_args(Basis)):
        raise ValueError("unknown basis")
    source, date = (None if (text := entry.get(key)) is None else str(text) for key in _NOTES)
    return LockedFile(size_bytes, sha256, basis, source, date)
