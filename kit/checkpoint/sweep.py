"""One front-to-back reading of a file that hashes it while its tensors are used."""

import hashlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from kit.checkpoint.pages import PageRelease, read_into
from kit.errors import IntegrityError

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Progress = Callable[[int, int], None]
"""Called as ``progress(done_bytes, total_bytes)`` of the source file."""


class HashedBuffers:
    """Two buffers used in turn, whose contents are hashed by another thread.

    Hashing lets go of the interpreter lock, so it runs beside reading, casting and writing. A
    buffer is only handed out again when its last content has been hashed.
    """

    def __init__(self, buffer_bytes: int) -> None:
        self._buffers = [np.empty(buffer_bytes, np.uint8) for _ in range(2)]
        self._hashed: list[Future[None] | None] = [None, None]
        self._turn = 0
        self._thread = ThreadPoolExecutor(max_workers=1)

    def next(self) -> Bytes:
        """The other buffer, free to be filled."""
        self._turn = 1 - self._turn
        self._wait(self._turn)
        return self._buffers[self._turn]

    def hash(self, update: Callable[[memoryview], None], view: memoryview) -> None:
        """Give ``view``, of the buffer handed out last, to a hash's ``update``; once a filling."""
        self._hashed[self._turn] = self._thread.submit(update, view)

    def settle(self) -> None:
        """Wait until everything is hashed."""
        self._wait(0)
        self._wait(1)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _wait(self, turn: int) -> None:
        if (future := self._hashed[turn]) is not None:
            future.result()
            self._hashed[turn] = None


class Sweep:
    """Reads a file from front to back. What lies between the reads is hashed too.

    Use as a context manager.

    Args:
        path: the file.
        size_bytes: its size.
        chunk_bytes: the largest piece that is read at once.
        progress: told the position after every piece.
    """

    def __init__(self, path: Path, size_bytes: int, chunk_bytes: int, progress: Progress) -> None:
        self.chunk_bytes = chunk_bytes
        self._path = path
        self._size_bytes = size_bytes
        self._progress = progress
        self._position = 0
        self._digest = hashlib.sha256()
        self._buffers = HashedBuffers(chunk_bytes)
        self._file = path.open("rb", buffering=0)
        self._release = PageRelease(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._buffers.close()
        self._release.finish()
        self._file.close()

    def read(self, offset: int, nbytes: int) -> Bytes:
        """Bytes ``offset`` to ``offset + nbytes``, valid until the second read after this one.

        Raises:
            IntegrityError: the file is shorter than it was.
        """
        while self._position < offset:
            self._piece(self._position, min(self.chunk_bytes, offset - self._position))
        return self._piece(offset, nbytes)

    def finish(self) -> str:
        """Read on to the end; the sha256 of the whole file."""
        while self._position < self._size_bytes:
            self._piece(self._position, min(self.chunk_bytes, self._size_bytes - self._position))
        self._buffers.settle()
        return self._digest.hexdigest()

    def _piece(self, offset: int, nbytes: int) -> Bytes:
        buffer = self._buffers.next()[:nbytes]
        view = buffer.data
        if read_into(self._file.fileno(), view, offset) < nbytes:
            raise IntegrityError(
                f"{self._path} became shorter while it was read",
                hint="let nothing write to the checkpoint during the conversion, then try again",
            )
        self._release.passed(offset, nbytes, written=False)
        end = offset + nbytes
        if end > self._position:  # storages can overlap: hash every byte once
            self._buffers.hash(self._digest.update, view[self._position - offset :])
            self._position = end
            self._progress(end, self._size_bytes)
        return buffer
