"""Digests of files."""

import hashlib
from pathlib import Path
from typing import Any

from blake3 import blake3

from kit.checkpoint.pages import PageRelease, read_into
from kit.units import MIB


def sha256_file(path: Path) -> str:
    """The file's sha256 in hex, read piece by piece, leaving nothing in the page cache."""
    return _read(path, hashlib.sha256())


def has_digest(path: Path, digest: str) -> bool:
    """Whether the file has this digest: ``sha256:…`` or ``blake3:…``."""
    kind, _, expected = digest.partition(":")
    return _read(path, blake3() if kind == "blake3" else hashlib.sha256()) == expected


def _read(path: Path, digest: Any) -> str:
    buffer = memoryview(bytearray(4 * MIB))
    offset = 0
    with path.open("rb", buffering=0) as file:
        release = PageRelease(file.fileno())
        while count := read_into(file.fileno(), buffer, offset):
            digest.update(buffer[:count])
            release.passed(offset, count)
            offset += count
        release.finish()
    return str(digest.hexdigest())
