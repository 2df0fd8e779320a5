"""A file on its way: ``.NAME.partial``, and a journal of its finished blocks beside it.

A block is entered into the journal only when its bytes are on disk, so whatever ends the process,
the journal never claims too much. The file takes its name when it is complete and was checked.
"""

import ctypes
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from kit.checkpoint.pages import write_at
from kit.files import FULL, full_disk_explained, sync_directory
from kit.units import MIB
from kit.weights.blocks import (
    Blocks,
    Identity,
    enter_blocks,
    journal_path,
    read_journal,
    start_journal,
)

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
