"""What a conversion has finished so far, kept on disk so that it can go on after any interruption.

One small JSON file in the work directory, replaced atomically after each finished shard.
"""

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from kit.files import write_durably
from kit.records import read_object

JOURNAL_NAME = ".progress.json"


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard: size, BLAKE3 of each tensor's bytes, infinite and NaN elements.

    ``nonfinite`` counts them by the model's tensor; those without any are left out.
    """

    size_bytes: int
    tensors: dict[str, str]
    nonfinite: dict[str, int]


@dataclass(frozen=True)
class Journal:
    """The state of one conversion.

    Attributes:
        key: identifies source and plan; a journal with another key is of no use.
        shards: the finished ones by file name.
        sources: digests of the whole source files in their order, once all shards are finished.
    """

    key: str
    shards: dict[str, ShardRecord]
    sources: tuple[str, ...] | None = None


def open_journal(directory: Path, key: str) -> Journal:
    """The journal of an interrupted conversion with this ``key``, or a new one.

    Creates ``directory``. Whatever in it does not belong to a finished shard is removed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    found = _read(directory / JOURNAL_NAME)
    journal = found if found is not None and found.key == key else Journal(key, {})
    intact = {
        name: record
        for name, record in journal.shards.items()
        if (directory / name).is_file() and (directory / name).stat().st_size == record.size_bytes
    }
    for path in directory.iterdir():
        if path.name not in intact:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    journal = replace(journal, shards=intact)
    write_journal(directory, journal)
    return journal


def write_journal(directory: Path, journal: Journal) -> None:
    """Replace the journal on disk; it is there, whole, when this returns."""
    write_durably(directory / JOURNAL_NAME, json.dumps(asdict(journal)).encode())


def _read(path: Path) -> Journal | None:
    try:
        content = read_object(path)
        shards = {name: ShardRecord(**record) for name, record in content["shards"].items()}
        digests = content["sources"]
        return Journal(content["key"], shards, None if digests is None else tuple(digests))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
