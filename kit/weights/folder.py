"""The weights folder: where things lie, and which files have been checked already.

In the data folder, each set has ``checkpoints/NAME`` for the files as they came, and
``NAME-PRECISION`` for their conversion. ``.verified.json`` in a set's folder keeps the sha256 of
the files that were read and checked, with size and time of change, so that tens of gigabytes are
not read again just to find them unchanged. `kit weights verify` reads them nevertheless.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from kit.files import write_durably
from kit.records import read_object
from kit.weights.digest import sha256_file

SETS_FOLDER = "checkpoints"
VERIFIED_NAME = ".verified.json"


@dataclass(frozen=True)
class Seen:
    """A file as it was when its digest was computed."""

    size_bytes: int
    mtime_ns: int
    sha256: str


def checkpoint_dir(data_dir: Path, name: str) -> Path:
    """The folder of a set's files as they came."""
    return data_dir / SETS_FOLDER / name


def converted_dir(data_dir: Path, name: str, precision: str) -> Path:
    """The folder of a set's conversion."""
    return data_dir / f"{name}-{precision}"


def known_digest(directory: Path, file: str) -> str | None:
    """The sha256 of a file that has not changed since it was computed; None if it is not known."""
    seen = _read(directory).get(file)
    try:
        state = (directory / file).stat()
    except OSError:
        return None
    if seen is None or (seen.size_bytes, seen.mtime_ns) != (state.st_size, state.st_mtime_ns):
        return None
    return seen.sha256


def checked_digest(data_dir: Path, path: Path) -> str | None:
    """The known sha256 of a file in one of the data folder's sets; None for any other file."""
    checkpoints, path = checkpoint_dir(data_dir, "").resolve(), path.resolve()
    if checkpoints not in path.parents:
        return None
    name, *parts = path.relative_to(checkpoints).parts
    return known_digest(checkpoints / name, "/".join(parts))


def digest_of(directory: Path, file: str) -> str:
    """The sha256 of a file: the known one, else read and kept."""
    known = known_digest(directory, file)
    if known is None:
        known = sha256_file(directory / file)
        remember(directory, file, known)
    return known


def remember(directory: Path, file: str, sha256: str) -> None:
    """Keep the sha256 of a file that was just read or written."""
    state = (directory / file).stat()
    seen = _read(directory) | {file: Seen(state.st_size, state.st_mtime_ns, sha256)}
    content = {name: asdict(entry) for name, entry in seen.items()}
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_durably(directory / VERIFIED_NAME, text.encode())


def forget(directory: Path, file: str) -> None:
    """Drop what is known of a file that turned out to be wrong."""
    seen = {name: asdict(entry) for name, entry in _read(directory).items() if name != file}
    text = json.dumps(seen, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_durably(directory / VERIFIED_NAME, text.encode())


def _read(directory: Path) -> dict[str, Seen]:
    try:
        content = read_object(directory / VERIFIED_NAME)
        return {name: Seen(**entry) for name, entry in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def start(directory: Path) -> None:
    """Mark a folder as one that files are being put into."""
    if not (directory / VERIFIED_NAME).exists():
        write_durably(directory / VERIFIED_NAME, b"{}\n")
