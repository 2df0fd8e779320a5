"""Reading and writing large files without filling the page cache or the memory."""

import os
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
