"""sha256 of files."""

import hashlib
from pathlib import Path

from kit.checkpoint.pages import PageRelease, read_into
from kit.units import MIB


def sha256_file(path: Path) -> str:
    """The file's sha256 in hex, read piece by piece, leaving nothing in the page cache."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(4 * MIB))
    offset = 0
    with path.open("rb", buffering=0) as file:
        release = PageRelease(file.fileno())
        while count := read_into(file.fileno(), buffer, offset):
            digest.update(buffer[:count])
            release.passed(offset, count)
            offset += count
        release.finish()
    return digest.hexdigest()
