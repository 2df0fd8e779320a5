"""What is in a bundle: ``MANIFEST.json``, written last, so that an unfinished bundle has none.

A bundle is laid out as the data folder is, and fills three kinds of places: ``checkpoints/NAME/…``;
``NAME-PRECISION/FILE`` with a ``conversion.json``; the licences' texts, ``licences/NAME.md``.
``SHA256SUMS`` says the same for ``sha256sum --check``.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from kit.errors import IntegrityError, printable
from kit.files import inner_path
from kit.lock import LockedFile, locked_entry, read_entry
from kit.records import parse_object
from kit.weights.folder import SETS_FOLDER
from kit.weights.layers import OWN_NAME
from kit.weights.licence import RECORD_NAME as ACCEPTED_NAME
from kit.weights.licence import TEXT_FOLDER
from kit.weights.record import RECORD_NAME

MANIFEST_NAME = "MANIFEST.json"
SUMS_NAME = "SHA256SUMS"
VERSION = 1
_OF_THE_KIT = (OWN_NAME, ACCEPTED_NAME, "upstream", "weights")
"""Names in the data folder that are no converted directory's."""

_NOT_OURS = "it was not made by kit weights bundle: do not use it"


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
            f"{MANIFEST_NAME} of the bundle is damaged ({printable(str(error))})",
            hint="make the bundle again",
        ) from error
    for file in files:
        inner_path(file)
    return Manifest(files, lock)


def require_places(manifest: Manifest) -> None:
    """Raise IntegrityError unless each file has a place for weights, and the lock speaks of it."""
    for file in manifest.files:
        if not _is_place(file, manifest.files):
            raise IntegrityError(
                f"the bundle wants to write {file}, which is no place for weights", hint=_NOT_OURS
            )
    for name, entries in manifest.lock.items():
        for file, locked in entries.items():
            carried = manifest.files.get(f"{SETS_FOLDER}/{name}/{file}")
            if carried is None or carried.size_bytes != locked.size_bytes:
                raise IntegrityError(
                    f"the bundle's lock speaks of {printable(name)}/{printable(file)}, "
                    "which the bundle does not carry",
                    hint=_NOT_OURS,
                )


def _is_place(file: str, files: Collection[str]) -> bool:
    top, *rest = parts = file.split("/")
    if not rest or any(part.startswith(".") for part in parts):
        return False
    if any("/".join(parts[:count]) in files for count in range(1, len(parts))):
        return False  # a file cannot be a folder, too
    if top == SETS_FOLDER:
        return len(rest) > 1
    if top == TEXT_FOLDER:
        return len(rest) == 1 and file.endswith(".md")
    return len(rest) == 1 and top not in _OF_THE_KIT and f"{top}/{RECORD_NAME}" in files
