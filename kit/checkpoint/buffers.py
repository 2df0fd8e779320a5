"""Memory that is used in turn, while other threads still work on what it held before."""

import mmap
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import cycle
from typing import Any

import numpy as np

from kit.checkpoint.pages import Bytes

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
