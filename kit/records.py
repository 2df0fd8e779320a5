"""Reading JSON that may be damaged or hostile: bounded in size and depth, from plain files only."""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

MAX_BYTES = 8 * 1024**2
"""Far above what the kit or a checkpoint's headers need (13B: 0.1 MB); bounds memory and time."""

MAX_DEPTH = 64
"""Far above what any format here nests (a receipt: 7)."""


def parse_json(data: bytes | str, limit_bytes: int = MAX_BYTES) -> Any:
    """The value that ``data`` describes.

    Raises:
        ValueError: it is no JSON, too long, or nested too deep.
    """
    if len(data) > limit_bytes:
        raise ValueError(f"it has {len(data)} bytes, at most {limit_bytes} are read")
    try:
        value = json.loads(data)
    except RecursionError as error:
        raise _too_deep() from error
    _require_depth(value)
    return value


def parse_object(data: bytes | str, limit_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """As ``parse_json``, for data that must be an object. Raises ValueError."""
    value = parse_json(data, limit_bytes)
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


def read_json(path: Path, limit_bytes: int = MAX_BYTES) -> Any:
    """The value in a plain file.

    Raises:
        OSError: it cannot be read, or is a pipe, a device or a folder.
        ValueError: as ``parse_json``.
    """
    return parse_json(read_plain(path, limit_bytes), limit_bytes)


def read_object(path: Path, limit_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """As ``read_json``, for a file that must hold an object. Raises OSError or ValueError."""
    return parse_object(read_plain(path, limit_bytes), limit_bytes)


def read_plain(path: Path, limit_bytes: int) -> bytes:
    """A plain file's bytes, up to one more than ``limit_bytes``; a pipe is not waited for.

    Raises:
        OSError: it cannot be read, or is a pipe, a device or a folder.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is not a plain file", str(path))
        return file.read(limit_bytes + 1)


def _require_depth(value: object) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise _too_deep()
        inner: list[object] = []
        for each in level:
            if isinstance(each, dict):
                inner += [item for item in each.values() if isinstance(item, dict | list)]
            elif isinstance(each, list):
                inner += [item for item in each if isinstance(item, dict | list)]
        level = inner


def _too_deep() -> ValueError:
    return ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
