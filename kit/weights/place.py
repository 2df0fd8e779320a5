"""Put a file that is already on this machine into the weights folder: linked, else copied."""

import os
from pathlib import Path

from kit.errors import IntegrityError
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
        EnvironmentNotReady: it cannot be read, or the disk is full.
    """
    source, target = source.resolve(), directory / file
    target.parent.mkdir(parents=True, exist_ok=True)
    if link and source.stat().st_size >= LINK_FROM_BYTES and _same_disk(source, target.parent):
        arrived = _link(source, target, expected, watch)
    else:
        arrived = copy_file(source, target, expected, watch=watch)
    folder.remember(directory, file, arrived.sha256)
    watch.progress(arrived.size_bytes, arrived.size_bytes)
    return arrived


def _link(source: Path, target: Path, expected: Expected, watch: Watch) -> Arrived:
    size_bytes, found = source.stat().st_size, sha256_file(source, watch.progress)
    if expected.sha256 not in (None, found):
        raise IntegrityError(
            f"{source} has sha256 {found}, {expected.sha256} is expected",
            hint="it is damaged, or another file; get it again from where it came",
        )
    if not (target.exists() and target.samefile(source)):
        fresh = target.with_name(f".{target.name}.link")
        fresh.unlink(missing_ok=True)
        os.link(source, fresh)
        fresh.replace(target)
    return Arrived(size_bytes, found)


def _same_disk(source: Path, folder_there: Path) -> bool:
    return source.stat().st_dev == folder_there.stat().st_dev
