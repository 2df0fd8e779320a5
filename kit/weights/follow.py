"""sha256 of a file while it grows."""

import hashlib

from kit.checkpoint.pages import read_into
from kit.units import MIB


class FollowingDigest:
    """Reads behind the part of a file that is complete, while it still lies in the page cache.

    So a parallel transfer needs no second pass over the disk; only what an earlier run left is
    read again, and so checked again.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._digest = hashlib.sha256()
        self._buffer = memoryview(bytearray(4 * MIB))
        self.offset = 0

    def advance(self, until: int) -> None:
        """Hash on up to ``until`` bytes from the file's start."""
        while self.offset < until:
            wanted = min(len(self._buffer), until - self.offset)
            count = read_into(self._fd, self._buffer[:wanted], self.offset)
            if count == 0:
                raise OSError("the file became shorter while it was written")
            self._digest.update(self._buffer[:count])
            self.offset += count

    def hexdigest(self) -> str:
        """Of everything passed so far."""
        return self._digest.hexdigest()
