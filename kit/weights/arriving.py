"""Digests of a set that is still arriving: they enter the lock together, when the set is whole.

What a source without checksums sent first is held against everything that comes later. So a source
that has only a part of a set leaves nothing in the lock. Until then its digests are kept beside the
files, and only for that source: interrupted, a fetch from it goes on behind the finished files; one
from another place fetches them anew.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from kit.checkpoint.journal import write_durably
from kit.lock import LockedFile, locked_entry, read_entry
from kit.records import read_object

ARRIVING_NAME = ".arriving.json"


def arrived_from(directory: Path, source: str) -> dict[str, LockedFile]:
    """Files of an unfinished set that ``source`` has sent, by path in ``directory``."""
    try:
        content = read_object(directory / ARRIVING_NAME)
        if content["source"] != source:
            return {}
        return {str(file): read_entry(entry) for file, entry in content["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def add(directory: Path, source: str, files: Mapping[str, LockedFile]) -> None:
    """Keep what ``files`` from ``source`` turned out to be. Those of another source are dropped."""
    known = arrived_from(directory, source) | dict(files)
    entries = {file: locked_entry(entry) for file, entry in known.items()}
    content = {"source": source, "files": entries}
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_durably(directory / ARRIVING_NAME, text.encode())


def clear(directory: Path) -> None:
    """Forget it all: the set is in the lock."""
    (directory / ARRIVING_NAME).unlink(missing_ok=True)
