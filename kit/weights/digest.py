"""Digests of files."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blake3 import blake3

from kit.checkpoint.pages import PageRelease, read_into
from kit.records import open_plain
from kit.units import MIB

Progress = Callable[[int, int], None]
"""Called as ``progress(done_bytes, total_bytes)``."""


def no_progress(done_bytes: int, total_bytes: int) -> None:
    """The ``Progress`` of what nobody watches."""


def sha256_file(path: Path, progress: Progress = no_progress) -> str:
    """The file's sha256 in hex, read piece by piece, leaving nothing in the page cache."""
    return _read(path, hashlib.sha256(), progress)


def has_digest(path: Path, digest: str) -> bool:
    """Whether the file has this digest: ``sha256:…`` or ``blake3:…``."""
    kind, _, expected = digest.partition(":")
    return _read(path, blake3() if kind == "blake3" else hashlib.sha256(), no_progress) == expected


def _read(path: Path, digest: Any, progress: Progress) -> str:
    buffer = memoryview(bytearray(4 * MIB))
    offset, total_bytes = 0, path.stat().st_size
    with open_plain(path) as file:
        release = PageRelease(file.fileno())
        while count := read_into(file.fileno(), buffer, offset):
            digest.update(buffer[:count])
            release.passed(offset, count)
            offset += count
            progress(offset, total_bytes)
        release.finish()
    return str(digest.hexdigest())
