"""Reading and writing large files without filling the page cache or the memory."""

import errno
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kit.errors import EnvironmentNotReady

PAGE_BYTES = 4096
LAG_BYTES = 64 * 1024**2


class PageRelease:
    """Gives the kernel's cached pages of one file back, some way behind the reads or writes.

    A written page can only be dropped once it is on disk. So each range is announced twice: at
    once, which makes the kernel start writing it, and again ``LAG_BYTES`` later, which drops it.
    Where the system has no such call (macOS) nothing happens.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._recent: deque[tuple[int, int]] = deque()
        self._recent_bytes = 0

    def passed(self, offset: int, nbytes: int, *, written: bool) -> None:
        """Note that a range has been read or written."""
        if written:
            self._advise(offset, nbytes)
        self._recent.append((offset, nbytes))
        self._recent_bytes += nbytes
        while self._recent_bytes > LAG_BYTES:
            old_offset, old_nbytes = self._recent.popleft()
            self._recent_bytes -= old_nbytes
            self._advise(old_offset, old_nbytes)

    def finish(self) -> None:
        """Drop whatever is left of the file; after fsync where it was written."""
        self._drop(0, 0)

    def _advise(self, offset: int, nbytes: int) -> None:
        """Whole pages only are dropped: round outwards, or the edges would stay for good."""
        start = offset - offset % PAGE_BYTES
        end = -(-(offset + nbytes) // PAGE_BYTES) * PAGE_BYTES
        self._drop(start, end - start)

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


@contextmanager
def disk_full_explained(directory: Path, kept: str) -> Iterator[None]:
    """Turn a full disk into EnvironmentNotReady; ``kept`` says what is not lost."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise EnvironmentNotReady(
            f"the disk of {directory} is full",
            hint=f"free space and run the same command again: {kept}",
        ) from error
