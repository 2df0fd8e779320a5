"""A converted directory is checked against its record, as a whole, before it is served.

Once for each state of the files: what was found sound is remembered by sizes, times and inodes, so
that a warm start reads nothing twice.
"""

import contextlib
import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

from kit.checkpoint.shards import was_converted
from kit.commands import command
from kit.errors import IntegrityError
from kit.records import read_object
from kit.weights.record import RECORD_NAME, ConversionRecord, read_record
from kit.weights.verify import require_sound, unknown_files, verify_conversion

logger = logging.getLogger("kit.serve")

SEEN_NAME = "verified-weights.json"


def require_untampered(
    directory: Path, state_dir: Path, progress: Callable[[int, int], None]
) -> None:
    """Return when every tensor and every file is as it was converted, and no other file is there.

    A directory that another tool wrote has no conversion's record and cannot be checked against
    anything; the log says so.

    Args:
        directory: with safetensors files.
        state_dir: where it is remembered what was found sound, if that can be written.
        progress: called as ``progress(done_bytes, total_bytes)``.

    Raises:
        IntegrityError: a file is missing, damaged, changed or too many, or the record is damaged,
            or gone from a directory that the kit made.
        EnvironmentNotReady: the record or a file cannot be read.
    """
    record = read_record(directory)
    if record is None:
        _require_foreign(directory, state_dir)
        logger.info("%s has no %s: its weights are taken as they are", directory, RECORD_NAME)
        return
    seen_file, name = state_dir / SEEN_NAME, str(directory.resolve())
    seen, state = _read(seen_file), _state(directory, record)
    if state is not None and seen.get(name) == state:
        return
    results = verify_conversion(directory, record, progress)
    require_sound(
        results,
        f"what you changed yourself: {command('kit weights refresh', name)} --accept FILE; move "
        "away what does not belong there; else remove the directory and convert again",
    )
    with contextlib.suppress(OSError):  # then it is read again next time
        state_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=state_dir) as own:  # others may write at the same time
            fresh = Path(own) / SEEN_NAME
            fresh.write_text(json.dumps(seen | {name: state}), encoding="utf-8")
            fresh.replace(seen_file)


def _require_foreign(directory: Path, state_dir: Path) -> None:
    """Raise IntegrityError for a directory that must have a record, by its files or by memory."""
    seen = str(directory.resolve()) in _read(state_dir / SEEN_NAME)
    if seen or any(map(was_converted, sorted(directory.glob("*.safetensors")))):
        raise IntegrityError(
            f"{directory} was made by kit weights convert, and its {RECORD_NAME} is gone",
            hint=f"get {RECORD_NAME} again from where the directory came, or convert again: "
            + command("kit weights convert CHECKPOINT", directory, "--overwrite"),
        )


def _state(directory: Path, record: ConversionRecord) -> list[list[int]] | None:
    """What changes when a file is written: size, times, inode.

    None: a file is missing or too many.
    """
    if unknown_files(directory, record):
        return None
    try:
        stats = [(directory / file).stat() for file in sorted(record.names)]
    except OSError:
        return None
    return [[stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino] for stat in stats]


def _read(path: Path) -> dict[str, list[list[int]]]:
    try:
        return read_object(path)
    except (OSError, ValueError):
        return {}
