"""The files a conversion reads, and one sweep that hashes them while they are used."""

import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Self

from blake3 import blake3

from kit import units
from kit.checkpoint.pages import ROOM_BYTES, Buffer, Buffers, Bytes, SourceReader
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


Progress = Callable[[int, int], None]
"""Called as ``progress(done_bytes, total_bytes)`` of all source files."""

BUFFERS = 5
_SMALL_GAP_BYTES = ROOM_BYTES // 2


class Request(NamedTuple):
    """Bytes ``offset`` to ``offset + nbytes`` of a file."""

    path: Path
    offset: int
    nbytes: int


class Sweep:
    """Reads files from front to back, ahead of the caller. What lies between is hashed too.

    All files share a few buffers. Use as a context manager.

    Args:
        files: what to read.
        chunk_bytes: the largest piece that is read at once.
        progress: told the bytes done, at the start and after every piece.
        expected: what will be read, in this order. What is read without being expected, once all
            of these have been read, is not read ahead.
        known: digests of files that need not be hashed, nor checked against their checksums, and of
            which nothing else is read.
    """

    def __init__(
        self,
        files: Sequence[SourceFile],
        chunk_bytes: int,
        progress: Progress | None = None,
        expected: Iterable[Request] = (),
        known: Mapping[Path, str] = MappingProxyType({}),
    ) -> None:
        self.chunk_bytes = chunk_bytes
        self._progress = progress
        self._total_bytes = sum(file.size_bytes for file in files)
        self._done_bytes = 0
        self._buffers = Buffers(chunk_bytes, BUFFERS)
        # An adapter is read in small pieces: one thread does for it.
        small = chunk_bytes <= units.MIB
        self._checker = self._buffers.hasher if small else self._buffers.checker
        self._passes = {file.path: _Pass(file, known.get(file.path)) for file in files}
        self._plan = self._pieces(expected)
        self._coming: deque[_Piece] = deque()

    def __enter__(self) -> Self:
        if self._progress:
            self._progress(0, self._total_bytes)
        return self

    def __exit__(self, *_: object) -> None:
        self._buffers.close()
        for one in self._passes.values():
            one.reader.close()

    def read(self, path: Path, offset: int, nbytes: int) -> Bytes:
        """Bytes ``offset`` to ``offset + nbytes``, valid until the next read.

        Raises:
            IntegrityError: the file is shorter than it was, or what was read before is not what a
                checksum says.
            ValueError: other bytes were expected.
        """
        request = Request(path, offset, nbytes)
        self._read_ahead()
        if not self._coming:
            self._plan = self._pieces([request])
        while True:
            self._read_ahead()
            piece = self._coming.popleft()
            data = self._take(piece)
            if piece.request == request:
                return data[offset - piece.start :]
            if piece.request:
                raise ValueError(f"{request} is read, {piece.request} was expected")

    def finish(self) -> tuple[str, ...]:
        """Read on to the end of all files; the digest of each: ``blake3:…``, or the known one.

        Raises:
            IntegrityError: as ``read``, of all that was read.
        """
        for one in self._passes.values():
            self.read(one.file.path, one.file.size_bytes, 0)
        self._buffers.settle()
        return tuple(
            one.known or f"blake3:{one.digest.hexdigest()}" for one in self._passes.values()
        )

    def _read_ahead(self) -> None:
        """Keep all buffers at work but the one that the caller has."""
        while len(self._coming) < self._buffers.count - 1:
            if (piece := next(self._plan, None)) is None:
                return
            self._coming.append(piece)

    def _pieces(self, requests: Iterable[Request]) -> Iterator["_Piece"]:
        """Begin to read what is requested and the gaps before it, the small ones along with it."""
        for request in requests:
            one = self._passes[request.path]
            if one.known:
                one.begun = max(one.begun, request.offset)
            while request.offset - one.begun > _SMALL_GAP_BYTES:
                end = min(one.begun + self.chunk_bytes, request.offset)
                yield self._begin(None, one, one.begun, end)
            start = min(one.begun, request.offset)
            yield self._begin(request, one, start, request.offset + request.nbytes)

    def _begin(self, request: Request | None, one: "_Pass", start: int, end: int) -> "_Piece":
        buffer = self._buffers.next()

        def read() -> Bytes:
            buffer.settle()
            return one.reader.read(buffer.bytes, start, end - start)

        one.begun = max(one.begun, end)
        return _Piece(request, one, start, end, buffer, self._buffers.mover.submit(read))

    def _take(self, piece: "_Piece") -> Bytes:
        data, one = piece.read.result(), piece.one
        if len(data) < piece.end - piece.start:
            raise IntegrityError(
                f"{one.file.path} became shorter while it was read",
                hint="let nothing write to the checkpoint during the conversion, then try again",
            )
        if piece.end > one.done:  # storages can overlap: hash every byte once
            if not one.known:
                fresh = data[one.done - piece.start :].data
                piece.buffer.begin(self._buffers.hasher, one.digest.update, fresh)
                piece.buffer.begin(self._checker, one.checksums.passed, one.done, fresh)
            self._done_bytes += piece.end - one.done
            one.done = piece.end
            if self._progress:
                self._progress(self._done_bytes, self._total_bytes)
        return data


class _Pass:
    """One file of a sweep: up to where it has been hashed, and reading has begun."""

    def __init__(self, file: SourceFile, known: str | None) -> None:
        self.file = file
        self.known = known
        self.reader = SourceReader(file.path)
        self.digest = blake3()
        self.checksums = ChecksumReader(file)
        self.begun = self.done = 0


@dataclass(frozen=True)
class _Piece:
    """Bytes that are being read into a buffer; for a request, or a part of the gap before it."""

    request: Request | None
    one: _Pass
    start: int
    end: int
    buffer: Buffer
    read: Future[Bytes]
