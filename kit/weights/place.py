"""Put a file that is already on this machine into the weights folder: linked, else copied."""

import os
from pathlib import Path

from kit.errors import EnvironmentNotReady, IntegrityError
from kit.weights import folder
from kit.weights.copy import copy_file
from kit.weights.digest import sha256_file
from kit.weights.transfer import Arrived, Expected, Watch

LINK_FROM_BYTES = 1 << 20
"""Smaller files are copied: somebody may edit a configuration; nobody edits weights in place."""


def place(
    source: Path, directory: Path, file: str, expected: Expected, *, link: bool, watch: Watch
) -> Arrived:
    """Make ``directory / file`` the content of ``source``, checked and remembered.

    Args:
        link: whether a hard link will do: on the same file system it costs neither time nor room.

    Raises:
        IntegrityError: ``source`` is not what was expected.
        EnvironmentNotReady: it cannot be read, there is no writing into ``directory``, or the disk
            is full.
    """
    source, target = source.resolve(), directory / file
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentNotReady(
            f"cannot write to {target.parent}: {error.strerror}",
            hint="choose another data folder with KIT_DATA_DIR",
        ) from error
    large = source.stat().st_size >= LINK_FROM_BYTES
    arrived = _link(source, target, expected, watch) if link and large else None
    if arrived is None:
        arrived = copy_file(source, target, expected, watch=watch)
    folder.remember(directory, file, arrived.sha256)
    watch.progress(arrived.size_bytes, arrived.size_bytes)
    return arrived


def _link(source: Path, target: Path, expected: Expected, watch: Watch) -> Arrived | None:
    """Make ``target`` a hard link to ``source``; None where there can be none.

    Not across file systems, not on all of them, and (fs.protected_hardlinks) not of others' files.
    """
    if target.exists() and target.samefile(source):
        return _checked(source, expected, watch)
    fresh = target.with_name(f".{target.name}.link")
    try:
        fresh.unlink(missing_ok=True)
        os.link(source, fresh)
    except OSError:
        return None
    try:
        arrived = _checked(source, expected, watch)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
    return arrived


def _checked(source: Path, expected: Expected, watch: Watch) -> Arrived:
    try:
        found = sha256_file(source, watch.progress)
    except OSError as error:
        raise EnvironmentNotReady(
            f"cannot read {source}: {error.strerror}", hint="check its permissions"
        ) from error
    if expected.sha256 not in (None, found):
        raise IntegrityError(
            f"{source} has sha256 {found}, {expected.sha256} is expected",
            hint="it is damaged, or another file; get it again from where it came",
        )
    return Arrived(source.stat().st_size, found)
