"""Two locks, one above the other: ``kit.lock`` of the kit, and the user's own in the data folder.

The kit's is never written by a user and wins where both know a file. What a first download
observed, or a colleague's lock told, goes into the user's.
"""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from kit.commands import command
from kit.errors import IntegrityError, UsageError
from kit.files import exclusive
from kit.lock import Lock, LockedFile, read_lock, read_named_lock, write_lock
from kit.settings import bundled
from kit.weights.digest import sha256_file

OWN_NAME = "kit.lock"
# Who holds the lock file writes a few kB; a minute means that it hangs.
_WAIT_S = 60.0
Weights = Mapping[str, Mapping[str, LockedFile]]


def read_layers(data_dir: Path) -> Lock:
    """The lock in effect: the user's, covered by the kit's.

    Raises:
        IntegrityError: one of them is damaged.
    """
    shipped, own = _shipped(), _own(data_dir)
    return replace(shipped, weights=_merged(own.weights, shipped.weights))


def record(data_dir: Path, name: str, files: Mapping[str, LockedFile]) -> None:
    """Add files of a set to the user's lock. What the locks know already stays as it is."""
    with _writing(data_dir):
        known, own = read_layers(data_dir).weights.get(name, {}), _own(data_dir)
        new = {
            file: locked for file, locked in files.items() if _tells_more(locked, known.get(file))
        }
        if new:
            write_lock(_path(data_dir), replace(own, weights=_merged(own.weights, {name: new})))


def adopt(data_dir: Path, path: Path, *, overwrite: bool = False) -> dict[str, tuple[str, ...]]:
    """Take the entries of another lock file into the user's; returns the new ones, by set.

    Entries without a basis are of files that come with the kit: every kit has its own.

    Raises:
        EnvironmentNotReady: ``path`` is not there, or cannot be read.
        IntegrityError: ``path`` is damaged, or contradicts the kit's lock, or (unless
            ``overwrite``) the user's. Nothing is taken then.
    """
    hint = f"your colleague makes it: {command('kit weights lock >', path.name)}"
    offered = {
        name: {file: locked for file, locked in files.items() if locked.basis is not None}
        for name, files in read_named_lock(path, hint).weights.items()
    }
    _require_agreement(offered, _shipped().weights, path, "the kit's lock", "")
    with _writing(data_dir):
        own = _own(data_dir)
        if not overwrite:
            way_out = "; --overwrite takes it anyway"
            _require_agreement(offered, own.weights, path, str(_path(data_dir)), way_out)
        known = read_layers(data_dir).weights
        new = {name: _news(files, known.get(name, {})) for name, files in offered.items()}
        write_lock(_path(data_dir), replace(own, weights=_merged(own.weights, new)))
    return {name: tuple(files) for name, files in new.items() if files}


def forget(data_dir: Path, name: str) -> tuple[str, ...]:
    """Drop a set from the user's lock; returns its files there. The kit's lock stays.

    Raises:
        UsageError: it is not in there.
    """
    with _writing(data_dir):
        own = _own(data_dir)
        if name not in own.weights:
            raise UsageError(
                f"{name} is not in your lock, {_path(data_dir)}",
                hint=f"it holds {', '.join(own.weights) or 'nothing yet'}",
            )
        rest = {other: files for other, files in own.weights.items() if other != name}
        write_lock(_path(data_dir), replace(own, weights=rest))
    return tuple(own.weights[name])


def _news(
    files: Mapping[str, LockedFile], known: Mapping[str, LockedFile]
) -> dict[str, LockedFile]:
    """Those of ``files`` that tell more than ``known`` does."""
    return {file: locked for file, locked in files.items() if _tells_more(locked, known.get(file))}


def _tells_more(new: LockedFile, known: LockedFile | None) -> bool:
    if known is None or known.sha256 != new.sha256:
        return True
    return known.basis == "observed" and new.basis == "pointer"


def _require_agreement(
    offered: Weights, held: Weights, path: Path, holder: str, way_out: str
) -> None:
    for name, files in offered.items():
        for file, locked in files.items():
            known = held.get(name, {}).get(file)
            if known is not None and known.sha256 != locked.sha256:
                raise IntegrityError(
                    f"{path} says sha256 {locked.sha256} for {name}/{file}, "
                    f"{holder} says {known.sha256}",
                    hint=f"one of the two is wrong: find out which file is the original{way_out}",
                )


def _merged(below: Weights, above: Weights) -> dict[str, dict[str, LockedFile]]:
    names = [*below, *(name for name in above if name not in below)]
    return {name: {**below.get(name, {}), **above.get(name, {})} for name in names}


def _own(data_dir: Path) -> Lock:
    path = _path(data_dir)
    return read_lock(path) if path.exists() else replace(_shipped(), weights={})


def _shipped() -> Lock:
    """The kit's lock, as far as it is about weights."""
    return replace(read_lock(bundled("kit.lock")), upstream_files={})


def _path(data_dir: Path) -> Path:
    return data_dir / OWN_NAME


def _writing(data_dir: Path) -> AbstractContextManager[None]:
    return exclusive(_path(data_dir), "writing", _WAIT_S)


def lock_files(directory: Path, files: Iterable[str]) -> dict[str, LockedFile]:
    """Measure files, given relative to ``directory``, for a lock."""
    return {
        file: LockedFile((directory / file).stat().st_size, sha256_file(directory / file))
        for file in files
    }


def update_weights(path: Path, name: str, files: Mapping[str, LockedFile]) -> None:
    """Replace one set of weights in the lock file at ``path``; the rest stays."""
    lock = read_lock(path)
    write_lock(path, replace(lock, weights={**lock.weights, name: files}))


def verify_files(directory: Path, locked: Mapping[str, LockedFile]) -> None:
    """Check every locked file against its size and sha256.

    Raises:
        IntegrityError: a file is missing or differs; it names the file, expected and found.
    """
    for file, expected in locked.items():
        path = directory / file
        hint = "get the file again: git checkout for a bundled one, else download it again"
        if not path.is_file():
            raise IntegrityError(f"{path} is missing", hint=hint)
        if (size_bytes := path.stat().st_size) != expected.size_bytes:
            raise IntegrityError(
                f"{path} has {size_bytes} bytes, {expected.size_bytes} expected", hint=hint
            )
        if (found := sha256_file(path)) != expected.sha256:
            raise IntegrityError(
                f"{path} has sha256 {found}, {expected.sha256} expected", hint=hint
            )
