"""Which file a conversion read, so that a later one can tell whether it is still the same."""

import zlib
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from kit.errors import EnvironmentNotReady, IntegrityError, printable
from kit.records import NotAFileError, open_plain

AGAIN = "the download is incomplete or damaged: get the file again"


def open_source(path: Path) -> FileIO:
    """Open a file that is to be read, unbuffered.

    Raises:
        EnvironmentNotReady: it cannot be opened.
        IntegrityError: it is a pipe, a socket or a device. Nothing is waited for.
    """
    try:
        return open_plain(path)
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> EnvironmentNotReady | IntegrityError:
    """What to raise for a file that cannot be opened or read."""
    text = f"cannot read {path}: {error.strerror}"
    if isinstance(error, NotAFileError):
        return IntegrityError(text, hint="copy what it gives into a file, and give that")
    return EnvironmentNotReady(text, hint="check the path and its permissions")


class Checksum(NamedTuple):
    """What the CRC-32 of ``nbytes`` bytes of a file, from ``offset`` on, must be."""

    name: str
    offset: int
    nbytes: int
    crc32: int


@dataclass(frozen=True)
class SourceFile:
    """One indexed file. Size, time and fingerprint together tell whether it changed.

    Attributes:
        fingerprint: sha256 over what indexing read anyway: names, sizes and places of all tensors
            and, where the format has them, checksums. Unlike a sha256 of all bytes it is free.
        checksums: of parts of it, where the format has them; in the order of the file, none
            overlaps another.
    """

    path: Path
    size_bytes: int
    mtime_ns: int
    fingerprint: str
    checksums: tuple[Checksum, ...] = field(default=(), kw_only=True)


class ChecksumReader:
    """Holds a file's bytes against its checksums while they pass, from front to back."""

    def __init__(self, file: SourceFile) -> None:
        self._path = file.path
        self._left = iter(file.checksums)
        self._current = next(self._left, None)
        self._crc32 = 0

    def passed(self, offset: int, data: memoryview) -> None:
        """Take the next bytes, which lie at ``offset``.

        Raises:
            IntegrityError: a part that ends in them is not what its checksum says.
        """
        end = offset + len(data)
        while (part := self._current) is not None and part.offset < end:
            stop = part.offset + part.nbytes
            first, last = max(offset, part.offset), min(end, stop)
            self._crc32 = zlib.crc32(data[first - offset : max(first, last) - offset], self._crc32)
            if stop > end:
                return
            require_checksum(self._path, part.name, self._crc32, part.crc32)
            self._current, self._crc32 = next(self._left, None), 0


def require_checksum(path: Path, name: str, found: int, expected: int) -> None:
    """Raise IntegrityError unless a CRC-32 is the one that was written."""
    if found != expected:
        raise IntegrityError(
            f"{path}: {printable(name)} is damaged: its CRC-32 is {found:08x}, "
            f"{expected:08x} expected",
            hint=AGAIN,
        )


def require_unchanged(file: SourceFile) -> None:
    """Raise IntegrityError if the file's size or time is no longer what indexing saw."""
    status = file.path.stat()
    if (status.st_size, status.st_mtime_ns) != (file.size_bytes, file.mtime_ns):
        raise IntegrityError(
            f"{file.path} changed while it was read",
            hint="let nothing write to the checkpoint during the conversion, then try again",
        )
