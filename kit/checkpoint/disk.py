"""Room on the disk: asked for before something is written, explained when it ends nevertheless."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kit.errors import EnvironmentNotReady
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
