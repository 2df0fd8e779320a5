"""Carry weights to machines without a network: out of the weights folder into a folder or a tar."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kit.errors import EnvironmentNotReady, IntegrityError, UsageError, printable
from kit.files import exclusive, inner_path, write_durably
from kit.lock import LockedFile, locked_entry, read_entry
from kit.records import parse_object
from kit.weights import folder, layers
from kit.weights.carry.tarball import Member, write_tar
from kit.weights.convert.record import RECORD_NAME, read_record
from kit.weights.fetch.partial import copy_file
from kit.weights.fetch.transfer import Expected, Watch
from kit.weights.folder import SETS_FOLDER, checkpoint_dir
from kit.weights.layers import OWN_NAME
from kit.weights.licence import RECORD_NAME as ACCEPTED_NAME
from kit.weights.licence import TEXT_FOLDER

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


Sets = Mapping[str, Mapping[str, LockedFile]]


@dataclass(frozen=True)
class Bundled:
    """A finished bundle."""

    path: Path
    files: Mapping[str, LockedFile]
    has_licence: bool


def bundle(names: Sequence[str], output: Path, data_dir: Path, watch: Watch) -> Bundled:
    """Write sets and converted directories into ``output``, or go on with an interrupted call.

    Args:
        names: sets that were fetched, or names of converted directories in the data folder.
        output: a tar file if its name ends in ``.tar``, else a folder.

    Raises:
        UsageError: ``output`` exists and is something else.
        EnvironmentNotReady: something is not there, or the disk is full.
        IntegrityError: a file is not what the lock says, or a conversion's record is damaged.
    """
    locked = layers.read_layers(data_dir).weights
    members, sets = [], {}
    for name in names:
        found = locked.get(name)
        if found and checkpoint_dir(data_dir, name).is_dir():
            sets[name] = found
            members += _set_members(name, found, data_dir)
        else:
            members += _converted_members(name, data_dir)
    texts = sorted((data_dir / TEXT_FOLDER).glob("*.md"))
    members += [_member(path, data_dir, None) for path in texts]
    write = _write_tar if output.suffix == ".tar" else _write_folder
    files = write(output, members, sets, watch)
    return Bundled(output, files, bool(texts))


def _set_members(name: str, files: Mapping[str, LockedFile], data_dir: Path) -> list[Member]:
    directory = checkpoint_dir(data_dir, name)
    missing = [file for file in files if not (directory / file).is_file()]
    if missing:
        raise EnvironmentNotReady(
            f"{name} is not complete: {missing[0]} is missing", hint=f"kit weights fetch {name}"
        )
    return [_member(directory / file, data_dir, files[file].sha256) for file in files]


def _converted_members(name: str, data_dir: Path) -> list[Member]:
    directory = data_dir / name
    record = read_record(directory)
    if record is None or not record.is_intact(directory):
        raise EnvironmentNotReady(
            f"{name} is neither a set that was fetched nor a converted directory in {data_dir}",
            hint="kit weights list shows what is there",
        )
    files = [*record.files, *record.support, RECORD_NAME]
    return [_member(directory / file, data_dir, None) for file in files]


def _member(path: Path, data_dir: Path, sha256: str | None) -> Member:
    return Member(path.relative_to(data_dir).as_posix(), path, path.stat().st_size, sha256)


def _manifest(members: Sequence[Member], digests: Mapping[str, str], sets: Sets) -> Manifest:
    files = {m.name: LockedFile(m.size_bytes, digests[m.name]) for m in members}
    return Manifest(files, sets)


def _write_tar(
    output: Path, members: Sequence[Member], sets: Sets, watch: Watch
) -> Mapping[str, LockedFile]:
    manifests = []

    def last(digests: Mapping[str, str]) -> dict[str, bytes]:
        manifests.append(_manifest(members, digests, sets))
        texts = {SUMS_NAME: sums_text(manifests[0]), MANIFEST_NAME: manifest_text(manifests[0])}
        return {name: text.encode() for name, text in texts.items()}

    if output.is_dir():
        raise UsageError(f"{output} is a folder", hint="choose another name, without .tar")
    write_tar(output, members, last, watch)
    return manifests[0].files


def _write_folder(
    output: Path, members: Sequence[Member], sets: Sets, watch: Watch
) -> Mapping[str, LockedFile]:
    known = {folder.VERIFIED_NAME, MANIFEST_NAME}
    if output.exists() and not (output.is_dir() and _is_ours(output, known)):
        raise UsageError(
            f"{output} exists and is no bundle", hint="choose a new folder, or a name in .tar"
        )
    with exclusive(output, "writing"):
        output.mkdir(parents=True, exist_ok=True)
        (output / MANIFEST_NAME).unlink(missing_ok=True)
        folder.start(output)
        digests, done, total = {}, 0, sum(member.size_bytes for member in members)
        for member in members:
            digests[member.name] = _copy(member, output, watch.part(done, total))
            done += member.size_bytes
        manifest = _manifest(members, digests, sets)
        write_durably(output / SUMS_NAME, sums_text(manifest).encode())
        write_durably(output / MANIFEST_NAME, manifest_text(manifest).encode())
    return manifest.files


def _is_ours(output: Path, known: set[str]) -> bool:
    names = {path.name for path in output.iterdir()}
    return not names or bool(names & known)


def _copy(member: Member, output: Path, watch: Watch) -> str:
    """Copy a file, unless an earlier call has done it."""
    known = folder.known_digest(output, member.name)
    if known is not None and known == (member.sha256 or known) and _same_size(member, output):
        return known
    expected = Expected(member.size_bytes, member.sha256)
    arrived = copy_file(member.path, output / member.name, expected, watch=watch)
    folder.remember(output, member.name, arrived.sha256)
    return arrived.sha256


def _same_size(member: Member, output: Path) -> bool:
    return (output / member.name).stat().st_size == member.size_bytes
