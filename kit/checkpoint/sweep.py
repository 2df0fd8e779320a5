"""One front-to-back reading of files that hashes them while their tensors are used."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from kit.checkpoint.pages import PageRelease, read_into
from kit.checkpoint.source import SourceFile
from kit.errors import IntegrityError

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Progress = Callable[[int, int], None]
"""Called as ``progress(done_bytes, total_bytes)`` of all source files."""


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
    """Reads files from front to back. What lies between the reads is hashed too.

    All files share two buffers. Use as a context manager.

    Args:
        files: what to read.
        chunk_bytes: the largest piece that is read at once.
        progress: told the bytes done after every piece.
    """

    def __init__(
        self, files: Sequence[SourceFile], chunk_bytes: int, progress: Progress | None = None
    ) -> None:
        self.chunk_bytes = chunk_bytes
        self._progress = progress
        self._total_bytes = sum(file.size_bytes for file in files)
        self._done_bytes = 0
        self._buffers = HashedBuffers(chunk_bytes)
        self._passes = {file.path: _Pass(file) for file in files}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._buffers.close()
        for one in self._passes.values():
            one.close()

    def read(self, path: Path, offset: int, nbytes: int) -> Bytes:
        """Bytes ``offset`` to ``offset + nbytes``, valid until the second read after this one.

        Raises:
            IntegrityError: the file is shorter than it was.
        """
        one = self._passes[path]
        self._skip_to(one, offset)
        return self._piece(one, offset, nbytes)

    def finish(self) -> tuple[str, ...]:
        """Read on to the end of all files; the sha256 of each whole file."""
        for one in self._passes.values():
            self._skip_to(one, one.file.size_bytes)
        self._buffers.settle()
        return tuple(one.digest.hexdigest() for one in self._passes.values())

    def _skip_to(self, one: "_Pass", offset: int) -> None:
        while one.position < offset:
            self._piece(one, one.position, min(self.chunk_bytes, offset - one.position))

    def _piece(self, one: "_Pass", offset: int, nbytes: int) -> Bytes:
        buffer = self._buffers.next()[:nbytes]
        one.read_into(buffer.data, offset)
        end = offset + nbytes
        if end > one.position:  # storages can overlap: hash every byte once
            self._buffers.hash(one.digest.update, buffer.data[one.position - offset :])
            self._done_bytes += end - one.position
            one.position = end
            if self._progress:
                self._progress(self._done_bytes, self._total_bytes)
        return buffer


class _Pass:
    """One file of a sweep, and how far it has been hashed."""

    def __init__(self, file: SourceFile) -> None:
        self.file = file
        self.position = 0
        self.digest = hashlib.sha256()
        self._opened = file.path.open("rb", buffering=0)
        self._release = PageRelease(self._opened.fileno())

    def read_into(self, view: memoryview, offset: int) -> None:
        if read_into(self._opened.fileno(), view, offset) < len(view):
            raise IntegrityError(
                f"{self.file.path} became shorter while it was read",
                hint="let nothing write to the checkpoint during the conversion, then try again",
            )
        self._release.passed(offset, len(view), written=False)

    def close(self) -> None:
        self._release.finish()
        self._opened.close()
