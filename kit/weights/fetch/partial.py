"""A file on its way: ``.NAME.partial``, and a journal of its finished blocks beside it.

A block is entered into the journal only when its bytes are on disk, so whatever ends the process,
the journal never claims too much. The file takes its name when it is complete and was checked.
"""

import ctypes
import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from kit.checkpoint.pages import PageRelease, read_into, write_at
from kit.checkpoint.source import open_source
from kit.errors import IntegrityError
from kit.files import FULL, exclusive, full_disk_explained, sync_directory, write_durably
from kit.records import parse_object, read_plain
from kit.units import MIB
from kit.weights.digest import FollowingDigest
from kit.weights.fetch.transfer import (
    Arrived,
    Expected,
    Keep,
    Watch,
    keep_nothing,
    require_digest,
    require_size,
)

_MOST_BYTES = 16 << 20
"""A file of 256 TiB in blocks of 16 MiB, and more than any other."""


@dataclass(frozen=True)
class Identity:
    """What must agree for two transfers to be of the same content.

    Attributes:
        size_bytes: of the whole file.
        sha256: where it is known beforehand; it then decides alone, whichever server it is.
        validator: the server's strong ETag or Last-Modified; without both there is no telling.
    """

    size_bytes: int
    sha256: str | None = None
    validator: str | None = None

    def is_of(self, other: "Identity") -> bool:
        """Whether both are of the same content, for all that is known."""
        if self.size_bytes != other.size_bytes:
            return False
        if self.sha256 and other.sha256:
            return self.sha256 == other.sha256
        return self.validator is not None and self.validator == other.validator


@dataclass(frozen=True)
class Blocks:
    """What a journal says: finished blocks, counted from 0, of ``block_bytes`` each."""

    identity: Identity
    block_bytes: int
    done: frozenset[int] = frozenset()

    @property
    def count(self) -> int:
        """Blocks of the whole file; the last may be short."""
        return -(-self.identity.size_bytes // self.block_bytes)

    @property
    def done_bytes(self) -> int:
        """Bytes in finished blocks."""
        return sum(len(self.extent(block)) for block in self.done)

    def extent(self, block: int) -> range:
        """The bytes of a block."""
        start = block * self.block_bytes
        return range(start, min(start + self.block_bytes, self.identity.size_bytes))


def journal_path(target: Path) -> Path:
    """Where the journal of ``target`` lies."""
    return target.with_name(f".{target.name}.journal")


def start_journal(path: Path, blocks: Blocks) -> None:
    """Write a journal anew, durably."""
    write_durably(path, _head(blocks) + _flags(blocks.count, blocks.done))


def enter_blocks(path: Path, blocks: Blocks) -> None:
    """Bring the flags of a started journal up to date; they are on disk when this returns."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, _flags(blocks.count, blocks.done), len(_head(blocks)))
        os.fdatasync(fd)
    finally:
        os.close(fd)


def read_journal(path: Path) -> Blocks | None:
    """What the journal says; None where there is none, or a damaged one."""
    try:
        head, flags = read_plain(path, _MOST_BYTES).split(b"\n")
        content = parse_object(head)
        identity = Identity(**content["identity"])
        done = frozenset(block for block, flag in enumerate(flags) if flag == ord("1"))
        blocks = Blocks(identity, int(content["block_bytes"]), done)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return blocks if len(flags) == blocks.count else None


def _head(blocks: Blocks) -> bytes:
    content = {"block_bytes": blocks.block_bytes, "identity": asdict(blocks.identity)}
    return json.dumps(content).encode() + b"\n"


def _flags(count: int, done: frozenset[int]) -> bytes:
    return bytes(ord("1") if block in done else ord("0") for block in range(count))


# What an interruption costs at most of each connection; some 3,200 marks for 53 GB.
BLOCK_BYTES = 16 * MIB
KEPT = "what has arrived is kept, and it goes on"


class Partial:
    """The unfinished file, open for writing. A context manager; leaving it enters what is done."""

    def __init__(self, target: Path, identity: Identity, block_bytes: int = BLOCK_BYTES) -> None:
        self.target = target
        self.path = partial_path(target)
        self._journal = journal_path(target)
        self.blocks = self._earlier(Blocks(identity, block_bytes))
        self._entered = self.blocks
        self._frontier = 0
        self._over = False
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def __enter__(self) -> "Partial":
        size_bytes = self.blocks.identity.size_bytes
        try:
            with full_disk_explained(self.path.parent, KEPT, size_bytes):
                _reserve(self.fd, size_bytes)
                start_journal(self._journal, self.blocks)
        except BaseException:
            os.close(self.fd)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.commit()
        finally:
            os.close(self.fd)

    @property
    def frontier_bytes(self) -> int:
        """Bytes from the start up to the first unfinished block."""
        while self._frontier in self.blocks.done:
            self._frontier += 1
        return min(self._frontier * self.blocks.block_bytes, self.blocks.identity.size_bytes)

    def write(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Write, and say clearly if the disk is full."""
        left_bytes = self.blocks.identity.size_bytes - self.blocks.done_bytes
        with full_disk_explained(self.path.parent, KEPT, left_bytes):
            write_at(self.fd, memoryview(data), offset)

    def finished(self, blocks: Iterable[int]) -> None:
        """Note blocks whose bytes have all been written."""
        self.blocks = replace(self.blocks, done=self.blocks.done.union(blocks))

    def commit(self, read_bytes: int = 0) -> None:
        """Enter the blocks finished so far. The first ``read_bytes`` leave the page cache."""
        blocks = self.blocks
        if self._over:
            return
        if blocks != self._entered:
            os.fdatasync(self.fd)
            enter_blocks(self._journal, blocks)
            self._entered = blocks
        if read_bytes and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.fd, 0, read_bytes, os.POSIX_FADV_DONTNEED)

    def publish(self) -> None:
        """Give the complete file its name."""
        self.commit()
        os.fsync(self.fd)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        self.path.rename(self.target)
        sync_directory(self.target.parent)
        self._journal.unlink()
        self._over = True

    def discard(self) -> None:
        """Remove everything: the content is not what it should be."""
        self._over = True
        self._journal.unlink()
        self.path.unlink()

    def _earlier(self, fresh: Blocks) -> Blocks:
        """What an earlier, interrupted transfer of the same content has left."""
        found = read_journal(self._journal)
        if found is None or not self.path.is_file():
            return fresh
        same = found.identity.is_of(fresh.identity) and found.block_bytes == fresh.block_bytes
        whole = self.path.stat().st_size == found.identity.size_bytes
        return replace(fresh, done=found.done) if same and whole else fresh


def partial_path(target: Path) -> Path:
    """Where the unfinished ``target`` lies."""
    return target.with_name(f".{target.name}.partial")


def arrived_bytes(target: Path) -> int:
    """How much of ``target`` an interrupted transfer has finished."""
    found = read_journal(journal_path(target))
    return found.done_bytes if found is not None else 0


def _reserve(fd: int, size_bytes: int) -> None:
    """Take the whole size at once, so that no other program can take the room meanwhile.

    The system call itself: where a file system has none, C's posix_fallocate writes zeros instead.
    """
    if os.fstat(fd).st_size != size_bytes:
        os.ftruncate(fd, size_bytes)
    fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    if size_bytes == 0 or fallocate is None:
        return
    if fallocate(fd, 0, ctypes.c_int64(0), ctypes.c_int64(size_bytes)) != 0:
        number = ctypes.get_errno()
        if number in FULL:
            raise OSError(number, os.strerror(number))


# What an interruption can cost, against a journal that is synced too often.
COMMIT_S = 1.0
_REMEDY = "get it again from where it came"


def copy_file(
    source: Path,
    target: Path,
    expected: Expected | None = None,
    *,
    extent: range | None = None,
    block_bytes: int = BLOCK_BYTES,
    watch: Watch | None = None,
    keep: Keep = keep_nothing,
) -> Arrived:
    """Copy ``source`` (or its bytes ``extent``) to ``target``, or go on with an earlier copy.

    The digest is computed from what was written, not from what was read. ``keep`` is called when
    the content is complete and checked, before it is named.

    Raises:
        EnvironmentNotReady: ``source`` cannot be read, the disk is full, or another process copies
            to ``target``. What has arrived is kept.
        IntegrityError: it is not the file that was expected, or it changed meanwhile.
    """
    asked, watching = expected or Expected(), watch or Watch()
    with open_source(source) as file, exclusive(target, "copying to"):
        state = os.fstat(file.fileno())
        bytes_wanted = range(state.st_size) if extent is None else extent
        require_size(target, len(bytes_wanted), asked, str(source), _REMEDY)
        validator = f"{source.name} {state.st_size} {state.st_mtime_ns} {bytes_wanted.start}"
        identity = Identity(len(bytes_wanted), asked.sha256, validator)
        with Partial(target, identity, block_bytes) as partial:
            found = _fill(file.fileno(), bytes_wanted.start, partial, watching)
            partial.commit()
            if source.stat().st_mtime_ns != state.st_mtime_ns:
                partial.discard()
                raise IntegrityError(
                    f"{source} was changed while it was copied", hint="run the same command again"
                )
            if asked.sha256 not in (None, found):
                partial.discard()
            require_digest(target, found, asked, str(source), _REMEDY)
            arrived = Arrived(len(bytes_wanted), found)
            keep(arrived)
            partial.publish()
    return arrived


def _fill(source: int, start: int, partial: Partial, watch: Watch) -> str:
    size_bytes = partial.blocks.identity.size_bytes
    buffer = memoryview(bytearray(partial.blocks.block_bytes))
    digest, release = FollowingDigest(partial.fd), PageRelease(source)
    committed = time.monotonic()
    for block in range(partial.blocks.count):
        extent = partial.blocks.extent(block)
        if block not in partial.blocks.done:
            part = buffer[: len(extent)]
            if read_into(source, part, start + extent.start) != len(extent):
                raise IntegrityError(
                    f"the source of {partial.target.name} became shorter while it was copied",
                    hint="run the same command again",
                )
            release.passed(start + extent.start, len(extent))
            partial.write(part, extent.start)
            partial.finished([block])
        digest.advance(extent.stop)
        if time.monotonic() - committed >= COMMIT_S:
            partial.commit(digest.offset)
            committed = time.monotonic()
        watch.progress(extent.stop, size_bytes)
    return digest.hexdigest()
