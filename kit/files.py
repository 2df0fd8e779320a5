"""Files of this machine: room on the disk, places that cannot be written, names from outside.

What is written lies in the state folder, unless a hint says otherwise.
"""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from kit.errors import EnvironmentNotReady, IntegrityError
from kit.units import format_gib

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors of a full disk, an exhausted quota, and a file larger than is allowed."""


def require_space(directory: Path, need_bytes: int, what: str, kept: str) -> None:
    """Raise EnvironmentNotReady unless ``what`` finds ``need_bytes`` free in ``directory``.

    ``kept`` says what is not lost.
    """
    free_bytes = shutil.disk_usage(directory).free
    if free_bytes < need_bytes:
        raise EnvironmentNotReady(
            f"{directory} has {format_gib(free_bytes)} free; {what} needs {format_gib(need_bytes)}",
            hint=f"free space there or choose another output; {kept}",
        )


@contextmanager
def full_disk_explained(
    directory: Path, kept: str, need_bytes: int | None = None
) -> Iterator[None]:
    """Turn a full disk into EnvironmentNotReady.

    Args:
        directory: what is written to.
        kept: says what is not lost.
        need_bytes: that are still to be written, where that is known.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        more = "" if need_bytes is None else f": {format_gib(need_bytes)} more are needed"
        raise EnvironmentNotReady(
            f"no room in {directory}{more} ({error.strerror})",
            hint=f"make room, then run the same command: {kept}",
        ) from error


_MOST_BYTES, _MOST_PART_BYTES = 1000, 200
"""File systems take names of 255 bytes; ours get a prefix and a suffix while they arrive."""


def inner_path(name: str) -> str:
    """``name`` itself, if it can only mean a file below the folder that it is joined to.

    Raises:
        IntegrityError: it is absolute, leads outwards, is written in an ambiguous way, or no file
            system would take it.
    """
    path = PurePosixPath(name)
    plain = path.as_posix() == name and not path.is_absolute() and name not in ("", ".")
    if not plain or ".." in path.parts or "\\" in name or "\0" in name:
        raise IntegrityError(
            f"the name {name[:200]!r} would lead out of its folder",
            hint="whoever made this file made it wrongly, or means harm: do not use it",
        )
    longest = max(len(part.encode(errors="replace")) for part in path.parts)
    whole = len(name.encode(errors="replace"))
    if not name.isprintable() or longest > _MOST_PART_BYTES or whole > _MOST_BYTES:
        raise IntegrityError(
            f"the name {name[:200]!r} is too long, or holds control characters",
            hint="rename the file where it comes from",
        )
    return name


_STATE_HINT = "set KIT_STATE_DIR to a folder that can be written"


@contextmanager
def writing(path: Path, hint: str = _STATE_HINT) -> Iterator[None]:
    """Around code that writes to ``path``.

    Raises:
        EnvironmentNotReady: that raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise unwritable(path, error, hint) from error


def unwritable(path: Path, error: OSError, hint: str = _STATE_HINT) -> EnvironmentNotReady:
    """What to raise for an ``error`` met when writing to ``path``."""
    return EnvironmentNotReady(f"cannot write to {path}: {error.strerror or error}", hint=hint)
