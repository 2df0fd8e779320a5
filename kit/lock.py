"""``kit.lock``: the pinned upstream commit and its files, and the files of weights.

Format: JSON with sorted keys, two spaces of indent and a final newline, so that the same content is
always the same bytes::

    {"upstream": {"commit": …, "files": {"<relative file>": "<sha256>"}, "repository": …},
     "version": 1,
     "weights": {"demo": {"<relative file>": {"sha256": …, "size": …}}}}

Files that came from elsewhere also say how their sha256 is known, from where and since when:
``"basis": "pointer"`` (a git LFS pointer published it) or ``"observed"`` (it was computed when the
file first arrived), ``"source"`` and ``"date"``. A lock that is about weights alone has no
``"files"`` of upstream.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from kit.errors import EnvironmentNotReady, IntegrityError, printable
from kit.files import write_durably
from kit.records import MAX_FILE_BYTES, read_object

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
        upstream_files: sha256 of upstream's files at that commit, by path in its repository.
    """

    repository: str
    commit: str
    weights: Mapping[str, Mapping[str, LockedFile]]
    upstream_files: Mapping[str, str] = field(default_factory=dict)


def read_lock(path: Path) -> Lock:
    """Read a lock file.

    Raises:
        IntegrityError: it is missing, damaged, or of a newer version.
    """
    try:
        content = read_object(path)
        if content["version"] != VERSION or content.keys() != {"version", "upstream", "weights"}:
            raise ValueError("unknown version")
        upstream = content["upstream"]
        return Lock(
            repository=str(upstream["repository"]),
            commit=str(upstream["commit"]),
            weights={
                name: {file: read_entry(entry) for file, entry in files.items()}
                for name, files in content["weights"].items()
            },
            upstream_files={
                file: _sha256(digest) for file, digest in upstream.get("files", {}).items()
            },
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"{path} is missing or damaged",
            hint="the kit's own is restored by git checkout -- kit.lock; "
            "one of yours: from a copy, or remove it and verify what you have",
        ) from error


def read_named_lock(path: Path, hint: str) -> Lock:
    """Read a lock file that the user has named.

    Args:
        hint: what to do where there is no such file, or no lock in it.

    Raises:
        EnvironmentNotReady: it is not there, or cannot be read.
        IntegrityError: it is damaged, or of a newer version.
    """
    try:
        return read_lock(path)
    except IntegrityError as error:
        reason = error.__cause__
        if isinstance(reason, FileNotFoundError):
            raise EnvironmentNotReady(f"there is no {path}", hint=hint) from error
        if isinstance(reason, OSError):
            raise EnvironmentNotReady(
                f"cannot read {path}: {reason.strerror}", hint="check the path and its permissions"
            ) from error
        raise IntegrityError(f"{path} is no lock, or damaged", hint=hint) from error


def write_lock(path: Path, lock: Lock) -> None:
    """Write a lock file, durably; equal locks give equal bytes."""
    write_durably(path, lock_text(lock).encode())


def lock_text(lock: Lock) -> str:
    """The content of a lock file."""
    upstream: dict[str, Any] = {"repository": lock.repository, "commit": lock.commit}
    if lock.upstream_files:
        upstream["files"] = dict(lock.upstream_files)
    content = {
        "version": VERSION,
        "upstream": upstream,
        "weights": {
            name: {file: locked_entry(locked) for file, locked in files.items()}
            for name, files in lock.weights.items()
        },
    }
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def locked_entry(locked: LockedFile) -> dict[str, Any]:
    """A file's entry in a lock, as JSON."""
    entry = {
        "size": locked.size_bytes,
        "sha256": locked.sha256,
        "basis": locked.basis,
        "source": locked.source and printable(locked.source),
        "date": locked.date,
    }
    return {key: value for key, value in entry.items() if value is not None}


def read_entry(entry: Any) -> LockedFile:
    """A file's entry out of JSON. Raises ValueError, KeyError or TypeError for anything else."""
    size_bytes, sha256, basis = entry["size"], _sha256(entry["sha256"]), entry.get("basis")
    if type(size_bytes) is not int or not 0 <= size_bytes <= MAX_FILE_BYTES:
        raise ValueError("a size is expected")
    if basis not in (None, *get_args(Basis)):
        raise ValueError("unknown basis")
    source, date = (
        None if (text := entry.get(key)) is None else printable(str(text)) for key in _NOTES
    )
    return LockedFile(size_bytes, sha256, basis, source, date)


def _sha256(text: Any) -> str:
    if not _SHA256.fullmatch(text):
        raise ValueError("a sha256 is expected")
    return str(text)
