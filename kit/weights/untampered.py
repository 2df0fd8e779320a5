"""Weights are held against their conversion's record before they are served.

Once for each state of the files: what was found sound is remembered by sizes, times and inodes, so
that a warm start reads nothing twice.
"""

import contextlib
import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

from kit.records import read_object
from kit.weights.record import RECORD_NAME, ConversionRecord, read_record
from kit.weights.verify import require_sound, verify_weights

logger = logging.getLogger("kit.serve")

SEEN_NAME = "verified-weights.json"


def require_untampered(
    directory: Path, state_dir: Path, progress: Callable[[int, int], None]
) -> None:
    """Return when every tensor is as it was converted.

    A directory without a conversion's record, such as one that another tool wrote, cannot be held
    against anything; the log says so.

    Args:
        directory: with safetensors files.
        state_dir: where it is remembered what was found sound, if that can be written.
        progress: called as ``progress(done_bytes, total_bytes)``.

    Raises:
        IntegrityError: a file is missing, cut short or damaged, or the record is damaged.
        EnvironmentNotReady: the record or a file cannot be read.
    """
    record = read_record(directory)
    if record is None:
        logger.info("%s has no %s: its weights are taken as they are", directory, RECORD_NAME)
        return
    seen_file, name = state_dir / SEEN_NAME, str(directory.resolve())
    seen, state = _read(seen_file), _state(directory, record)
    if state is not None and seen.get(name) == state:
        return
    results = verify_weights(directory, record, progress)
    require_sound(results, f"remove {directory} and convert again; kit weights verify reads it all")
    with contextlib.suppress(OSError):  # then it is read again next time
        state_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=state_dir) as own:  # others may write at the same time
            fresh = Path(own) / SEEN_NAME
            fresh.write_text(json.dumps(seen | {name: state}), encoding="utf-8")
            fresh.replace(seen_file)


def _state(directory: Path, record: ConversionRecord) -> list[list[int]] | None:
    """What changes when a file is written: size, times, inode. None: a file is missing."""
    try:
        stats = [(directory / file).stat() for file in (*sorted(record.files), RECORD_NAME)]
    except OSError:
        return None
    return [[stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino] for stat in stats]


def _read(path: Path) -> dict[str, list[list[int]]]:
    try:
        return read_object(path)
    except (OSError, ValueError):
        return {}
