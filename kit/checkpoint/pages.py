"""Large files without filling the page cache: buffers used in turn, and O_DIRECT."""

import errno
import mmap
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import cycle
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

Bytes: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]

PAGE_BYTES = 4096
# Written pages are dropped this far behind, once the disk has had time to take them.
LAG_BYTES = 64 * 1024**2


class PageRelease:
    """Gives the kernel's cached pages of one file back, some way behind the reads or writes.

    A written page can only be dropped once it is on disk, and a block of pages only as a whole. So
    each range is announced with what lies before it: that makes the kernel start writing the range,
    and drops what has been written of the rest. Where the system has no such call (macOS) nothing
    happens.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def passed(self, offset: int, nbytes: int) -> None:
        """Note that a range has been read or written. Its last page is kept if it goes on."""
        start = max(0, offset - LAG_BYTES) // PAGE_BYTES * PAGE_BYTES
        end = (offset + nbytes) // PAGE_BYTES * PAGE_BYTES
        if end > start:
            self._drop(start, end - start)

    def finish(self) -> None:
        """Drop whatever is left of the file; after fsync where it was written."""
        self._drop(0, 0)

    def _drop(self, offset: int, nbytes: int) -> None:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._fd, offset, nbytes, os.POSIX_FADV_DONTNEED)


def read_into(fd: int, buffer: memoryview, offset: int) -> int:
    """Fill ``buffer`` from ``offset``; returns the bytes read, fewer only at the file's end."""
    done = 0
    while done < len(buffer):
        count = os.preadv(fd, [buffer[done:]], offset + done)
        if count == 0:
            break
        done += count
    return done


def write_at(fd: int, data: memoryview | bytes, offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count


_O_DIRECT = getattr(os, "O_DIRECT", None)
_NOT_DIRECTLY = (errno.EINVAL, errno.EFAULT)
"""What the kernel says where it cannot: of a file system, and of memory that another driver has
mapped, such as CUDA's pinned buffers."""


class SourceReader:
    """Reads whole pages of a file. Several threads may read at a time.

    Args:
        path: the file.
        cached: take it from the page cache and leave it there.
    """

    def __init__(self, path: Path, *, cached: bool = False) -> None:
        self._fd = os.open(path, os.O_RDONLY)
        self._direct_fd = None if cached else _open_direct(path, os.O_RDONLY)
        self._release = None if cached else PageRelease(self._fd)

    def read(self, buffer: Bytes, offset: int, nbytes: int) -> Bytes:
        """Bytes ``offset`` to ``offset + nbytes``, fewer only at the file's end, within ``buffer``.

        ``buffer`` starts on a page and has room for two pages more.
        """
        skipped = offset % PAGE_BYTES
        pages_bytes = -(-(skipped + nbytes) // PAGE_BYTES) * PAGE_BYTES
        count = self._read_pages(buffer[:pages_bytes].data, offset - skipped)
        return buffer[skipped : min(skipped + nbytes, count)]

    def close(self) -> None:
        """Close the file."""
        if self._release:
            self._release.finish()
        os.close(self._fd)
        if self._direct_fd is not None:
            os.close(self._direct_fd)

    def _read_pages(self, view: memoryview, offset: int) -> int:
        if self._direct_fd is not None:
            try:
                return read_into(self._direct_fd, view, offset)
            except OSError as error:
                if error.errno not in _NOT_DIRECTLY:
                    raise
        count = read_into(self._fd, view, offset)
        if self._release:
            self._release.passed(offset, count)
        return count


class NewFile:
    """A file of known size being written, by several threads; an existing one is replaced."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._direct_fd = _open_direct(path, os.O_WRONLY)
        self._release = PageRelease(self._fd)
        os.fchmod(self._fd, 0o644)
        os.truncate(self._fd, size_bytes)

    def write(self, data: Bytes, offset: int) -> None:
        """Write the contiguous bytes of ``data`` at ``offset``.

        Whole pages among them go directly to the disk if they lie on pages in memory as well.
        """
        first = min(-offset % PAGE_BYTES, len(data))
        last = max(first, len(data) - (offset + len(data)) % PAGE_BYTES)
        if not self._write_direct(data[first:last], offset + first):
            first = last = len(data)
        self._write_cached(data[:first], offset)
        self._write_cached(data[last:], offset + last)

    def finish(self) -> None:
        """Wait until everything is on disk."""
        os.fsync(self._fd)
        self._release.finish()

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
        if self._direct_fd is not None:
            os.close(self._direct_fd)

    def _write_direct(self, pages: Bytes, offset: int) -> bool:
        if self._direct_fd is None or pages.ctypes.data % PAGE_BYTES:
            return False
        try:
            write_at(self._direct_fd, pages.data, offset)
        except OSError as error:
            if error.errno not in _NOT_DIRECTLY:
                raise
            return False
        return True

    def _write_cached(self, data: Bytes, offset: int) -> None:
        if len(data):
            write_at(self._fd, data.data, offset)
            self._release.passed(offset, len(data))


def _open_direct(path: Path, flags: int) -> int | None:
    try:
        return os.open(path, flags | _O_DIRECT) if _O_DIRECT else None
    except OSError:  # the file system cannot
        return None


ROOM_BYTES = 128 * 1024
"""What a buffer holds beyond its chunk: bytes between chunks, and the way to the next page."""


class Buffer:
    """Memory for a chunk, starting on a page, and what other threads are doing with it."""

    def __init__(self, chunk_bytes: int) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        memory = mmap.mmap(-1, chunk_bytes + ROOM_BYTES, flags=flags)
        if hasattr(mmap, "MADV_HUGEPAGE"):  # a third more speed where the disk fills them directly
            memory.madvise(mmap.MADV_HUGEPAGE)
        self.bytes: Bytes = np.frombuffer(memory, np.uint8)
        self._begun: list[Future[Any]] = []

    def begin(self, thread: ThreadPoolExecutor, work: Callable[..., Any], *args: object) -> None:
        """Let another thread work with the memory."""
        self._begun.append(thread.submit(work, *args))

    def settle(self) -> None:
        """Wait until all that was begun is done; raises what went wrong there."""
        while self._begun:
            self._begun.pop().result()

    def wait(self) -> None:
        """Wait until all that was begun is done, whatever went wrong."""
        wait(self._begun)


class Buffers:
    """A ring of buffers, and threads that hash, that check, and that read or write them.

    Hashing, checking, reading and writing let go of the interpreter lock: they run beside each
    other and beside the casting. A second reader or writer only gets in the way of the others.
    """

    def __init__(self, chunk_bytes: int, count: int) -> None:
        self.count = count
        self.hasher = ThreadPoolExecutor(max_workers=1)
        self.checker = ThreadPoolExecutor(max_workers=1)
        self.mover = ThreadPoolExecutor(max_workers=1)
        self._buffers = [Buffer(chunk_bytes) for _ in range(count)]
        self._turn = cycle(self._buffers)

    def next(self) -> Buffer:
        """The buffer whose turn it is. It must settle before it is filled."""
        return next(self._turn)

    def settle(self) -> None:
        """Wait until all buffers have settled."""
        for buffer in self._buffers:
            buffer.settle()

    def wait(self) -> None:
        """Wait until no thread works with any buffer, whatever went wrong."""
        for buffer in self._buffers:
            buffer.wait()

    def close(self) -> None:
        """End the threads; what they have not begun is left undone."""
        self.mover.shutdown(cancel_futures=True)
        self.hasher.shutdown(cancel_futures=True)
        self.checker.shutdown(cancel_futures=True)
