"""Whether the kit may write where it keeps things."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from kit.doctor.facts import Facts, Folders
from kit.doctor.request import Request


def look(request: Request, facts: Facts) -> Folders:
    """Try it: a file without a name, in each folder, or in the parent of one that is to come."""
    return Folders(tuple(_unwritable(request)))


def _unwritable(request: Request) -> Iterator[tuple[Path, str]]:
    """Folders of the kit in which no file can be made; those to come count by their parent."""
    for folder in (request.settings.data_dir, request.settings.state_dir):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            yield folder, error.strerror or str(error)
