"""Digests of files, also of such as still grow."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blake3 import blake3

from kit.checkpoint.pages import PageRelease, read_into
from kit.records import open_plain
from kit.units import MIB


class FollowingDigest:
    """Reads behind the part of a file that is complete, while it still lies in the page cache.

    So a parallel transfer needs no second pass over the disk; only what an earlier run left is
    read again, and so checked again.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._digest = hashlib.sha256()
        self._buffer = memoryview(bytearray(4 * MIB))
        self.offset = 0

    def advance(self, until: int) -> None:
        """Hash on up to ``until`` bytes from the file's start."""
        while self.offset < until:
            wanted = min(len(self._buffer), until - self.offset)
            count = read_into(self._fd, self._buffer[:wanted], self.offset)
            if count == 0:
                raise OSError("the file became shorter while it was written")
            self._digest.update(self._buffer[:count])
            self.offset += count

    def hexdigest(self) -> str:
        """Of everything passed so far."""
        return self._digest.hexdigest()


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
