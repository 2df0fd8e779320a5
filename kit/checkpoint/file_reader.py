"""Reading anywhere in files, for what is not swept from front to back."""

from io import FileIO
from pathlib import Path
from typing import Self

import numpy as np

from kit.checkpoint.pages import Bytes, PageRelease, read_into
from kit.errors import IntegrityError


class FileReader:
    """Reads anywhere in files into one buffer, leaving nothing in the page cache.

    Use as a context manager.
    """

    def __init__(self, buffer_bytes: int) -> None:
        self._buffer = np.empty(buffer_bytes, np.uint8)
        self._opened: dict[Path, tuple[FileIO, PageRelease]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file, release in self._opened.values():
            release.finish()
            file.close()

    def read(self, path: Path, offset: int, nbytes: int) -> Bytes:
        """Bytes ``offset`` to ``offset + nbytes``, valid until the next call.

        Raises:
            IntegrityError: the file is shorter.
        """
        if path not in self._opened:
            file = path.open("rb", buffering=0)
            self._opened[path] = file, PageRelease(file.fileno())
        file, release = self._opened[path]
        buffer = self._buffer[:nbytes]
        if read_into(file.fileno(), buffer.data, offset) < nbytes:
            raise IntegrityError(
                f"{path} is shorter than its header says", hint="copy or convert it again"
            )
        release.passed(offset, nbytes)
        return buffer
