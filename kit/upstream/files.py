"""Upstream's files: checked against kit.lock, written as a tree, with a manifest."""

import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from kit.errors import EnvironmentNotReady, IntegrityError
from kit.files import publish, remove, work_directory
from kit.records import read_object
from kit.units import MIB

LIMIT_BYTES = 16 * MIB
"""More than any file of upstream has: what is longer is not read, and so differs."""

_SHOWN = 8
_SCRIPTS = "deepspeed-megatron/examples_deepspeed/iFlytekSpark"
_KERNELS = "deepspeed-megatron/megatron/fused_kernels/build"
_LEFT_BY_USE = (
    f"{_SCRIPTS}/infer.log",
    f"{_SCRIPTS}/ds_config_gbs*_mbs*_log*_zero*.json",
    "deepspeed-megatron/megatron/data/helpers.*.so",
    *(f"{_KERNELS}/{name}" for name in ("build.ninja", ".ninja_*", "lock", "*.o", "*.so")),
)
"""What upstream's own scripts write into their tree: logs, configurations, compiled helpers."""


@dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        content: of the expected files that are there, by path in the repository.
        extra: what else is there, beside and among them, or is not a plain file.
        left: what upstream's own scripts have left there.
    """

    content: Mapping[str, bytes]
    extra: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


@dataclass(frozen=True)
class Difference:
    """What is not as expected: paths in the repository."""

    missing: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.changed or self.extra)

    def lines(self) -> list[str]:
        """One line a file."""
        return [
            *(f"{file} is missing" for file in self.missing),
            *(f"{file} differs" for file in self.changed),
            *(f"{file} does not belong there" for file in self.extra),
        ]

    def summary(self) -> str:
        """The first lines, in one."""
        lines = self.lines()
        more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        return "; ".join(lines[:_SHOWN] + more)


def belongs(path: str, expected: Collection[str]) -> bool:
    """Whether ``path`` lies where the expected files lie: in a folder of the top that holds any.

    Compiled Python is not counted: upstream's own scripts leave it there, and the engine does not
    use it (:mod:`kit.serve.megatron.imports`).
    """
    top, *rest = path.split("/")
    if "__pycache__" in rest:
        return False
    return any(file == top or file.startswith(f"{top}/") for file in expected)


def left_by_use(path: str) -> bool:
    """Whether upstream's own scripts write ``path`` while they run: a used tree is no drifted one.

    None of it is source, and the kit runs a tree's source alone: what is compiled is not used.
    """
    depth = path.count("/")
    return any(fnmatchcase(path, each) and depth == each.count("/") for each in _LEFT_BY_USE)


def read_folder(root: Path, expected: Collection[str]) -> Found:
    """Read the expected files out of a folder, and see what else is there.

    Raises:
        EnvironmentNotReady: something cannot be read.
    """
    content: dict[str, bytes] = {}
    extra: list[str] = []
    left: list[str] = []
    try:
        for path in _walk(root, {file.split("/")[0] for file in expected}):
            name = path.relative_to(root).as_posix()
            if not belongs(name, expected):
                continue
            if not stat.S_ISREG(path.lstat().st_mode):
                extra.append(name)
            elif name in expected:
                with path.open("rb") as file:
                    content[name] = file.read(LIMIT_BYTES + 1)
            else:
                (left if left_by_use(name) else extra).append(name)
    except OSError as error:
        raise EnvironmentNotReady(
            f"cannot read {error.filename}: {error.strerror}", hint="check who may read the folder"
        ) from error
    return Found(content, tuple(sorted(extra)), tuple(sorted(left)))


def difference(found: Found, expected: Mapping[str, str]) -> Difference:
    """Check files against their sha256 by path."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in found.content.items()}
    return Difference(
        missing=tuple(sorted(expected.keys() - digests.keys())),
        changed=tuple(sorted(file for file in digests if digests[file] != expected[file])),
        extra=found.extra,
    )


def require_same(found: Found, expected: Mapping[str, str], what: str, hint: str) -> None:
    """Refuse files that differ from their sha256 in ``expected``, by name.

    Raises:
        IntegrityError: ``what`` differs; it names the files.
    """
    if differs := difference(found, expected):
        raise IntegrityError(f"{what} is drifted: {differs.summary()}", hint=hint)


def _walk(root: Path, tops: Collection[str]) -> Iterator[Path]:
    """Everything below the given names of ``root`` that is not a folder; links are not followed."""
    for top in sorted(tops):
        path = root / top
        if path.is_symlink() or not path.is_dir():
            if os.path.lexists(path):
                yield path
            continue
        for folder, folders, files in os.walk(path, onerror=_raise):
            links = [name for name in folders if (Path(folder) / name).is_symlink()]
            yield from (Path(folder) / name for name in [*files, *links])


def _raise(error: OSError) -> None:
    raise error


def write_tree(root: Path, content: Mapping[str, bytes]) -> None:
    """Put files at ``root``, in place of whatever is there. The caller holds a lock on ``root``.

    Ended in between, it leaves the old tree or the new one, or for a moment none; the same call
    goes on from each.

    Raises:
        EnvironmentNotReady: it cannot be written.
    """
    work = work_directory(root)
    try:
        remove(work)
        for name, data in content.items():
            path = work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        publish(work, root)
    except OSError as error:
        raise EnvironmentNotReady(
            f"cannot write {error.filename or root}: {error.strerror}",
            hint="make room or choose another folder (KIT_UPSTREAM_TREE), then run it again",
        ) from error


MANIFEST_NAME = "spark-kit.json"
_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """What a rewritten tree is.

    Attributes:
        kit: version of the kit that made it.
        repository, commit: upstream's, as pinned in the lock.
        digest: of the choice of rewrites, see ``kit.upstream.selection.rewrite_digest``.
        groups, rewrites: the names of the choice.
        changed: the files that are not upstream's, each with the rewrites that made it so.
        files: sha256 of every file, by path in the repository.
    """

    kit: str
    repository: str
    commit: str
    digest: str
    groups: tuple[str, ...]
    rewrites: tuple[str, ...]
    changed: Mapping[str, tuple[str, ...]]
    files: Mapping[str, str]


def manifest_text(manifest: Manifest) -> str:
    """The content of the file; equal manifests give equal text."""
    return json.dumps({"version": _VERSION} | asdict(manifest), indent=2, sort_keys=True) + "\n"


def read_manifest(root: Path) -> Manifest | None:
    """The manifest of the tree at ``root``; None if there is none.

    Raises:
        IntegrityError: it is damaged, or of a newer version.
    """
    path = root / MANIFEST_NAME
    try:
        content = read_object(path)
        if content.pop("version") != _VERSION:
            raise ValueError("unknown version")
        manifest = Manifest(
            kit=str(content.pop("kit")),
            repository=str(content.pop("repository")),
            commit=str(content.pop("commit")),
            digest=str(content.pop("digest")),
            groups=tuple(content.pop("groups")),
            rewrites=tuple(content.pop("rewrites")),
            changed={file: tuple(names) for file, names in content.pop("changed").items()},
            files=dict(content.pop("files").items()),
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"{path} is damaged", hint="make the tree again: kit upstream render"
        ) from error
    return manifest
