"""Reading and writing large files past the page cache (O_DIRECT), where the file system can.

What does not pass through the cache needs no copying and leaves nothing to release: it takes a
tenth of the CPU time. Both file and memory must then lie on pages. Elsewhere the cache is used and
its pages are given back.
"""

import errno
import os
from pathlib import Path

from kit.checkpoint.pages import PAGE_BYTES, Bytes, PageRelease, read_into, write_at

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
