"""Weights that are on this machine already, taken into the weights folder."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from kit.commands import command
from kit.errors import EnvironmentNotReady, IntegrityError, UsageError
from kit.lock import LockedFile
from kit.weights import folder, layers
from kit.weights.catalogue import Catalogue, WeightSet
from kit.weights.digest import sha256_file
from kit.weights.fetch.partial import copy_file
from kit.weights.fetch.transfer import Arrived, Expected, Watch
from kit.weights.folder import checkpoint_dir

LINK_FROM_BYTES = 1 << 20
"""Smaller files are copied: somebody may edit a configuration; nobody edits weights in place."""


def place(
    source: Path, directory: Path, file: str, expected: Expected, *, link: bool, watch: Watch
) -> Arrived:
    """Make ``directory / file`` the content of ``source``, checked and remembered.

    Args:
        link: whether a hard link will do: on the same file system it costs neither time nor room.

    Raises:
        IntegrityError: ``source`` is not what was expected.
        EnvironmentNotReady: it cannot be read, there is no writing into ``directory``, or the disk
            is full.
    """
    source, target = source.resolve(), directory / file
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentNotReady(
            f"cannot write to {target.parent}: {error.strerror}",
            hint="choose another data folder with KIT_DATA_DIR",
        ) from error
    large = source.stat().st_size >= LINK_FROM_BYTES
    arrived = _link(source, target, expected, watch) if link and large else None
    if arrived is None:
        arrived = copy_file(source, target, expected, watch=watch)
    folder.remember(directory, file, arrived.sha256)
    watch.progress(arrived.size_bytes, arrived.size_bytes)
    return arrived


def _link(source: Path, target: Path, expected: Expected, watch: Watch) -> Arrived | None:
    """Make ``target`` a hard link to ``source``; None where there can be none.

    Not across file systems, not on all of them, and (fs.protected_hardlinks) not of others' files.
    """
    if target.exists() and target.samefile(source):
        return _checked(source, expected, watch)
    fresh = target.with_name(f".{target.name}.link")
    try:
        fresh.unlink(missing_ok=True)
        os.link(source, fresh)
    except OSError:
        return None
    try:
        arrived = _checked(source, expected, watch)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
    return arrived


def _checked(source: Path, expected: Expected, watch: Watch) -> Arrived:
    try:
        found = sha256_file(source, watch.progress)
    except OSError as error:
        raise EnvironmentNotReady(
            f"cannot read {source}: {error.strerror}", hint="check its permissions"
        ) from error
    if expected.sha256 not in (None, found):
        raise IntegrityError(
            f"{source} has sha256 {found}, {expected.sha256} is expected",
            hint="it is damaged, or another file; get it again from where it came",
        )
    return Arrived(source.stat().st_size, found)


Found = Mapping[str, Path]
"""Where the files of a set were found, by path in the set's own folder."""


@dataclass(frozen=True)
class TakenIn:
    """A set, or the part of it that was found.

    Attributes:
        files: what was taken in.
        missing: files of the set that were not among the paths.
    """

    name: str
    directory: Path
    files: Mapping[str, LockedFile]
    missing: tuple[str, ...]


def take_in(
    paths: Sequence[Path],
    catalogue: Catalogue,
    data_dir: Path,
    *,
    name: str | None = None,
    link: bool = True,
    watch: Watch | None = None,
) -> tuple[TakenIn, ...]:
    """Find the files of sets below ``paths``; check, place and record them.

    Args:
        name: the set they belong to, where their paths do not tell.
        link: hard-link large files where possible, instead of copying them.

    Raises:
        UsageError: nothing is recognised, or what is found could be several things.
        EnvironmentNotReady: a file is not there or cannot be read, or there is no writing into the
            weights folder.
        IntegrityError: a file is not what the lock says, or not of a size that it may have
            (``WeightSet.plausible_bytes``).
    """
    files = [file for path in paths for file in _files_below(path)]
    wanted = [catalogue.find(name)] if name else list(catalogue.weights.values())
    found = {weights.name: _find(weights, files, forced=bool(name)) for weights in wanted}
    sets = [weights for weights in wanted if _is_told(weights, found[weights.name])]
    if not sets:
        raise UsageError(
            f"no weights are recognised in {', '.join(map(str, paths))}",
            hint="say which they are with --as NAME; kit weights list shows names and files",
        )
    sizes = [sum(path.stat().st_size for path in found[each.name].values()) for each in sets]
    whole = watch or Watch()
    return tuple(
        _take_set(each, found[each.name], data_dir, link, whole.part(sum(sizes[:i]), sum(sizes)))
        for i, each in enumerate(sets)
    )


def _files_below(path: Path) -> list[Path]:
    try:
        if not path.exists():
            raise EnvironmentNotReady(f"there is no {path}", hint="check the path; is it mounted?")
        below = path.rglob("*") if path.is_dir() else [path]
        return sorted(file.absolute() for file in below if file.is_file())
    except OSError as error:
        raise EnvironmentNotReady(
            f"cannot read {error.filename or path}: {error.strerror}", hint="check its permissions"
        ) from error


def _find(weights: WeightSet, files: Sequence[Path], *, forced: bool) -> Found:
    """The set's files, told by the end of their path; with ``forced`` by their name if need be."""
    found = {}
    for file, origin in weights.files.items():
        candidates = [p for p in files if _ends(p, origin) and "/" in origin]
        candidates += [p for p in files if _ends(p, f"{weights.name}/{file}")]
        if not candidates and (forced or "/" not in origin):
            candidates = [p for p in files if p.name == Path(file).name]
        if len(set(candidates)) > 1:
            raise UsageError(
                f"{file} of {weights.name} could be {candidates[0]} or {candidates[1]}",
                hint="name the one folder that is meant",
            )
        if candidates:
            found[file] = candidates[0]
    return found


def _ends(path: Path, end: str) -> bool:
    return path.as_posix().endswith(f"/{end}")


def _is_told(weights: WeightSet, found: Found) -> bool:
    """A tokenizer alone does not make a model of it."""
    return (weights.checkpoint or next(iter(weights.files))) in found


def _take_set(
    weights: WeightSet, found: Found, data_dir: Path, link: bool, watch: Watch
) -> TakenIn:
    directory = checkpoint_dir(data_dir, weights.name)
    locked = layers.read_layers(data_dir).weights.get(weights.name, {})
    expected = {
        file: _expected(weights, file, path, locked.get(file)) for file, path in found.items()
    }
    total, done = sum(path.stat().st_size for path in found.values()), 0
    for file, path in found.items():
        part = watch.part(done, total)
        arrived = place(path, directory, file, expected[file], link=link, watch=part)
        done += arrived.size_bytes
        entry = LockedFile(
            arrived.size_bytes, arrived.sha256, "observed", f"import of {path.name}", _today()
        )
        layers.record(data_dir, weights.name, {file: entry})
    files = layers.read_layers(data_dir).weights[weights.name]
    missing = tuple(file for file in weights.files if not (directory / file).is_file())
    return TakenIn(weights.name, directory, {file: files[file] for file in found}, missing)


def _expected(weights: WeightSet, file: str, path: Path, known: LockedFile | None) -> Expected:
    """What ``path`` must be to be that file. Raises IntegrityError if its size tells otherwise."""
    expected = Expected(plausible_bytes=weights.plausible_bytes(file))
    hint = (
        "it is damaged, or of another model; what is not of the catalogue needs no import: "
        + command("kit weights convert", path, "DIRECTORY")
    )
    if known is not None:
        expected = Expected(known.size_bytes, known.sha256)
        hint = "it is damaged, or another file; get it again from where it came"
    size_bytes = path.stat().st_size
    if wanted := expected.other_size(size_bytes):
        raise IntegrityError(f"{path} has {size_bytes} bytes, {wanted} are expected", hint=hint)
    return expected


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
