"""Take a bundle into the weights folder: everything checked, nothing written outside of it."""

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import FileIO, RawIOBase
from pathlib import Path

from kit.checkpoint.source import open_source
from kit.errors import EnvironmentNotReady, IntegrityError, UsageError, printable
from kit.files import exclusive, inner_path
from kit.lock import LockedFile
from kit.records import MAX_BYTES
from kit.weights import folder, layers
from kit.weights.carry.bundle import (
    MANIFEST_NAME,
    SUMS_NAME,
    Manifest,
    parse_manifest,
    require_places,
)
from kit.weights.fetch.partial import copy_file
from kit.weights.fetch.transfer import Expected, Watch
from kit.weights.licence import TEXT_FOLDER

_MOST_MANIFEST_BYTES = MAX_BYTES
_MOST_HEADER_BYTES = 1 << 20
"""Of a tar's header with its extensions (names beyond 100 characters: 2 KiB); bounds memory."""

_MOST_MEMBERS = 100_000
"""A set has a dozen files; bounds time and memory."""


@dataclass(frozen=True)
class _Spot:
    """Where a bundle holds a file: bytes of a file on this machine."""

    path: Path
    extent: range


def unbundle(path: Path, data_dir: Path, watch: Watch) -> tuple[str, ...]:
    """Take in a bundle, or go on with an interrupted call; returns the folders, below ``data_dir``.

    A folder appears under its name only when all its files are there and were checked.

    Raises:
        EnvironmentNotReady: there is no such bundle, it is unfinished, or the disk is full.
        UsageError: a folder of that name exists with other content.
        IntegrityError: the bundle is damaged, contradicts the lock, or would write elsewhere.
    """
    if not path.exists():
        raise EnvironmentNotReady(f"there is no {path}", hint="check the path; is it mounted?")
    spots = _read_folder(path) if path.is_dir() else _read_tar(path)
    manifest = _manifest(path, spots)
    _require_whole(path, manifest, spots)
    require_places(manifest)
    _require_agreement(manifest, data_dir)
    folders = sorted({_folder_of(file) for file in manifest.files})
    with exclusive(data_dir / "weights", "unbundling into"):
        done, total = 0, sum(locked.size_bytes for locked in manifest.files.values())
        for name in folders:
            files = {f: entry for f, entry in manifest.files.items() if _folder_of(f) == name}
            _take(name, files, spots, data_dir, watch.part(done, total))
            done += sum(entry.size_bytes for entry in files.values())
        for name, entries in manifest.lock.items():
            layers.record(data_dir, name, _observed(entries))
    return tuple(folders)


def _observed(entries: Mapping[str, LockedFile]) -> dict[str, LockedFile]:
    """What a bundle says of its files: it can tell what they are, not what a repository said."""
    return {file: replace(locked, basis="observed") for file, locked in entries.items()}


def _read_folder(path: Path) -> dict[str, _Spot]:
    spots = {}
    for file in path.rglob("*"):
        name = file.relative_to(path).as_posix()
        if file.is_symlink() or not (file.is_file() or file.is_dir()):
            raise _unsafe(path, name, "is a link or a device")
        if file.is_file():
            spots[name] = _Spot(file, range(file.stat().st_size))
    return spots


def _read_tar(path: Path) -> dict[str, _Spot]:
    spots: dict[str, _Spot] = {}
    size_bytes = path.stat().st_size
    try:
        with (
            open_source(path) as file,
            tarfile.open(fileobj=_Bounded(file), mode="r:") as tar,
        ):
            for member in tar:
                spot = _Spot(path, range(member.offset_data, member.offset_data + member.size))
                if not 0 <= spot.extent.start <= spot.extent.stop <= size_bytes:
                    raise _unsafe(path, member.name, "does not lie in it")
                inner_path(member.name)
                if not member.isreg() or member.issparse():
                    raise _unsafe(path, member.name, "is not a plain file")
                if member.name in spots:
                    raise _unsafe(path, member.name, "is there twice")
                if len(spots) == _MOST_MEMBERS:
                    raise _unsafe(path, member.name, "is one file too many")
                spots[member.name] = spot
    except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError) as error:
        raise IntegrityError(
            f"{path} is not a tar file, or a damaged one ({printable(str(error))})",
            hint="copy it again from where it was made",
        ) from error
    return spots


class _Bounded(RawIOBase):
    """A tar for ``tarfile``, which reads headers of whatever size they claim to be."""

    def __init__(self, file: FileIO) -> None:
        self._file = file

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _MOST_HEADER_BYTES:
            raise tarfile.ReadError("a header of absurd size")
        return self._file.read(size) or b""


def _unsafe(path: Path, name: str, why: str) -> IntegrityError:
    return IntegrityError(
        f"{name[:200]!r} in {path} {why}",
        hint="it was not made by kit weights bundle: do not use it",
    )


def _manifest(path: Path, spots: Mapping[str, _Spot]) -> Manifest:
    spot = spots.get(MANIFEST_NAME)
    if spot is None:
        raise EnvironmentNotReady(
            f"{path} is no finished bundle: it has no {MANIFEST_NAME}",
            hint="run kit weights bundle again where it was made: it goes on",
        )
    if len(spot.extent) > _MOST_MANIFEST_BYTES:
        raise _unsafe(path, MANIFEST_NAME, "is too large")
    with spot.path.open("rb") as file:
        file.seek(spot.extent.start)
        return parse_manifest(file.read(len(spot.extent)))


def _require_whole(path: Path, manifest: Manifest, spots: Mapping[str, _Spot]) -> None:
    extra = spots.keys() - manifest.files.keys() - {MANIFEST_NAME, SUMS_NAME}
    extra = {name for name in extra if not name.rpartition("/")[2].startswith(".")}
    if extra:
        raise _unsafe(path, min(extra), f"is not in its {MANIFEST_NAME}")
    for file, locked in manifest.files.items():
        found = len(spots[file].extent) if file in spots else None
        if found != locked.size_bytes:
            state = "is missing" if found is None else f"has {found} bytes"
            raise IntegrityError(
                f"{file} of the bundle {path} {state}, {locked.size_bytes} bytes expected",
                hint="copy the bundle again from where it was made",
            )


def _require_agreement(manifest: Manifest, data_dir: Path) -> None:
    """The lock of this machine, the lock in the bundle and its files must say the same."""
    held = layers.read_layers(data_dir).weights
    for name, entries in manifest.lock.items():
        for file, locked in entries.items():
            known = held.get(name, {}).get(file, locked)
            carried = manifest.files.get(f"checkpoints/{name}/{file}", locked)
            if not known.sha256 == carried.sha256 == locked.sha256:
                raise IntegrityError(
                    f"the bundle has sha256 {carried.sha256} for {name}/{file}, "
                    f"the lock says {known.sha256}",
                    hint="find out which is the original before you use either",
                )


def _folder_of(file: str) -> str:
    """``checkpoints/NAME`` or ``NAME``: what appears at once."""
    parts = file.split("/")
    return "/".join(parts[:2]) if parts[0] == "checkpoints" and len(parts) > 2 else parts[0]


def _take(
    name: str,
    files: Mapping[str, LockedFile],
    spots: Mapping[str, _Spot],
    data_dir: Path,
    watch: Watch,
) -> None:
    """Put one folder in place. A converted directory gets its name last, a set's files one by one.

    A file that is there already stays if it is the same; a licence's text stays in any case.
    """
    final = data_dir / name
    by_file = name == TEXT_FOLDER or name.startswith("checkpoints/") or final.exists()
    directory = final if by_file else final.with_name(f".{final.name}.unbundling")
    done, total = 0, sum(locked.size_bytes for locked in files.values())
    for carried, locked in files.items():
        file, spot = carried.removeprefix(f"{name}/"), spots[carried]
        if not (directory / file).is_file():
            expected = Expected(locked.size_bytes, locked.sha256)
            part = watch.part(done, total)
            copy_file(spot.path, directory / file, expected, extent=spot.extent, watch=part)
            folder.remember(directory, file, locked.sha256)
        elif name != TEXT_FOLDER and folder.digest_of(directory, file) != locked.sha256:
            raise UsageError(
                f"{directory / file} is there and differs from the bundle's",
                hint="move it away, then run the same command again",
            )
        done += locked.size_bytes
    if directory != final:
        for leftover in directory.rglob(".*.lock"):
            leftover.unlink()
        directory.rename(final)
