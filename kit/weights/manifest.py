"""What is in a bundle: ``MANIFEST.json``, written last, so that an unfinished bundle has none.

A bundle is laid out as the data folder is: ``checkpoints/NAME/…`` and ``NAME-PRECISION/…``, with
the licences' texts in ``licences/``. ``SHA256SUMS`` says the same for ``sha256sum --check``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from kit.errors import IntegrityError
from kit.lock import LockedFile, locked_entry, read_entry
from kit.records import parse_object
from kit.weights.paths import inner_path

MANIFEST_NAME = "MANIFEST.json"
SUMS_NAME = "SHA256SUMS"
VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """The files of a bundle, by path in it, and the lock's entries for the sets among them."""

    files: Mapping[str, LockedFile]
    lock: Mapping[str, Mapping[str, LockedFile]]


def manifest_text(manifest: Manifest) -> str:
    """The content of ``MANIFEST.json``; equal manifests give equal bytes."""
    content = {
        "version": VERSION,
        "files": {file: locked_entry(locked) for file, locked in manifest.files.items()},
        "lock": {
            name: {file: locked_entry(locked) for file, locked in files.items()}
            for name, files in manifest.lock.items()
        },
    }
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def sums_text(manifest: Manifest) -> str:
    """The content of ``SHA256SUMS``."""
    return "".join(f"{locked.sha256}  {file}\n" for file, locked in sorted(manifest.files.items()))


def parse_manifest(text: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        IntegrityError: it is damaged, of a newer version, or names files outside of the folders
            that a bundle may fill.
    """
    try:
        content = parse_object(text)
        if content["version"] != VERSION:
            raise ValueError("unknown version")
        files = {str(file): read_entry(entry) for file, entry in content["files"].items()}
        lock = {
            str(name): {str(file): read_entry(entry) for file, entry in entries.items()}
            for name, entries in content["lock"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"{MANIFEST_NAME} of the bundle is damaged ({error})", hint="make the bundle again"
        ) from error
    for file in files:
        _require_place(file)
    return Manifest(files, lock)


def _require_place(file: str) -> None:
    parts = inner_path(file).split("/")
    if len(parts) < 2 or any(part.startswith(".") for part in parts):
        raise IntegrityError(
            f"the bundle wants to write {file}, which is no place for weights",
            hint="it was not made by kit weights bundle: do not use it",
        )
