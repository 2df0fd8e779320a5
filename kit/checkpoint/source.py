"""Which file a conversion read, so that a later one can tell whether it is still the same."""

from dataclasses import dataclass
from pathlib import Path

from kit.errors import IntegrityError


@dataclass(frozen=True)
class SourceFile:
    """One indexed file. Size, time and fingerprint together tell whether it changed.

    Attributes:
        fingerprint: sha256 over what indexing read anyway: names, sizes and places of all tensors
            and, where the format has them, checksums. Unlike a sha256 of all bytes it is free.
    """

    path: Path
    size_bytes: int
    mtime_ns: int
    fingerprint: str


def require_unchanged(file: SourceFile) -> None:
    """Raise IntegrityError if the file's size or time is no longer what indexing saw."""
    status = file.path.stat()
    if (status.st_size, status.st_mtime_ns) != (file.size_bytes, file.mtime_ns):
        raise IntegrityError(
            f"{file.path} changed while it was read",
            hint="let nothing write to the checkpoint during the conversion, then try again",
        )
