"""Files and JSON that may be damaged or hostile.

Plain files only, since opening a pipe may wait for ever; JSON is bounded in size and depth.
"""

import errno
import json
import os
import stat
from io import FileIO
from pathlib import Path
from typing import Any

MAX_BYTES = 8 * 1024**2
"""Far above what the kit or a checkpoint's headers need (13B: 0.1 MB); bounds memory and time."""

MAX_DEPTH = 64
"""Far above what any format here nests (a receipt: 7)."""

MAX_FILE_BYTES = 2**63 - 1
"""The largest size and offset that a file can have: what claims more is damaged."""

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotAFileError(OSError):
    """A path leads to a pipe, a socket or a device; ``strerror`` says to which."""


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
    with open_plain(path) as file:
        content = bytearray()
        while len(content) <= limit_bytes:
            piece = file.read(limit_bytes + 1 - len(content))
            if not piece:
                break
            content += piece
        return bytes(content)


def open_plain(path: Path) -> FileIO:
    """Open a plain file for reading, unbuffered; nothing is waited for, whatever lies there.

    Raises:
        OSError: it cannot be read, or is a folder; NotAFileError: it is a pipe, a socket or a
            device.
    """
    return FileIO(path, opener=open_plain_fd)


def open_plain_fd(path: str | Path, flags: int) -> int:
    """As ``open_plain``, in the form of an ``opener`` of Python's ``open``."""
    _require_plain(Path(path).stat(), path)  # opening a device may do something
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _require_plain(os.fstat(fd), path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _require_plain(status: os.stat_result, path: str | Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise NotAFileError(errno.EINVAL, f"it is {kind}, not a file", str(path))


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
