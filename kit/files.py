"""Files of this machine: room on the disk, places that cannot be written, names from outside;
writing durably, a directory whole or not at all, one process at a time.

What is written lies in the state folder, unless a hint says otherwise.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from kit.errors import EnvironmentNotReady, IntegrityError, UsageError
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


def write_durably(path: Path, content: bytes) -> None:
    """Write a small file so that after a crash either the old or the new one is there, whole."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the directory's names (creations, renames) durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def work_directory(output: Path) -> Path:
    """Where ``output`` is made: a hidden directory beside it. What is left there can go on."""
    return output.with_name(f".{output.name}.partial")


def require_free(output: Path, what: str) -> None:
    """Raise UsageError if ``output`` is there and not ``what`` it should become."""
    if output.exists() and (output.is_file() or any(output.iterdir())):
        raise UsageError(
            f"{output} exists and is not {what}",
            hint="choose another output, or allow it to be replaced with --overwrite",
        )


def require_outside(sources: tuple[Path, ...], output: Path) -> None:
    """Raise UsageError if replacing ``output`` would remove what it is made of."""
    if any(source.resolve().is_relative_to(output.resolve()) for source in sources):
        raise UsageError(
            f"the checkpoint lies inside the output {output}", hint="choose another output"
        )


def publish(work: Path, output: Path) -> None:
    """Give the finished directory its name. What had that name before is removed afterwards."""
    replaced = output.with_name(f".{output.name}.replaced")
    remove(replaced)
    if output.exists():
        output.rename(replaced)
    work.chmod(0o755)
    sync_directory(work)
    work.rename(output)
    sync_directory(output.parent)
    remove(replaced)


def remove(path: Path) -> None:
    """Remove a directory or file, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def exclusive(target: Path, doing: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold a lock on ``target``; the system releases it when the process ends, however.

    Raises:
        EnvironmentNotReady: another process holds it, or there is no writing there.
    """
    from filelock import FileLock, Timeout  # not needed to say --help

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        path = target.with_name(f".{target.name}.lock")
        lock = FileLock(path, timeout=wait_s)
        lock.acquire()
    except Timeout as error:
        if not path.exists():  # it could not be made: no process holds it
            raise EnvironmentNotReady(
                f"cannot write to {target.parent}", hint="choose another place"
            ) from error
        raise EnvironmentNotReady(
            f"another process is {doing} {target}",
            hint="wait until it has finished, then run the same command",
        ) from error
    except OSError as error:
        raise EnvironmentNotReady(
            f"cannot write to {target.parent}: {error.strerror}", hint="choose another place"
        ) from error
    with lock:
        yield
