"""Weights that are on this machine already, taken into the weights folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from kit.commands import command
from kit.errors import EnvironmentNotReady, IntegrityError, UsageError
from kit.lock import LockedFile
from kit.weights import layers
from kit.weights.catalogue import Catalogue, WeightSet
from kit.weights.folder import checkpoint_dir
from kit.weights.place import place
from kit.weights.transfer import Expected, Watch

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
