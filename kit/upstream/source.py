"""Bringing upstream in: from a git repository, a folder of this machine, or a tarball."""

import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from kit.errors import EnvironmentNotReady, IntegrityError, UsageError
from kit.files import exclusive, inner_path
from kit.lock import Lock
from kit.settings import Settings
from kit.upstream.files import (
    LIMIT_BYTES,
    Found,
    belongs,
    difference,
    left_by_use,
    read_folder,
    require_same,
    write_tree,
)
from kit.upstream.git import head, read_commit, shown
from kit.upstream.tree import pinned, pristine_dir
from kit.weights.fetch.ask import read_start
from kit.weights.fetch.http import Location, RefusedError

_DAMAGED = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError)


_URL = re.compile(r"[a-z][a-z+.-]*://|[\w.-]+@[\w.-]+:")
_TARBALL = (".tar.gz", ".tgz", ".tar", ".tar.xz", ".tar.bz2")
_TARBALL_LIMIT_BYTES = 256 << 20
_REPAIR = "take it from elsewhere: --from names a repository, a clone, a folder or a tarball"


def read_source(source: str, lock: Lock) -> dict[str, bytes]:
    """The files that the lock names, from ``source``, every one as the lock says.

    A clone of this machine gives its working tree if the pinned commit is checked out, else the
    commit out of its history; any other folder gives what lies in it.

    Raises:
        UsageError: ``source`` is neither an address nor a path that is there.
        EnvironmentNotReady: it cannot be read, or does not have the pinned commit.
        IntegrityError: something in it is not as the lock says; it names the files.
    """
    found = _read(source, lock)
    require_same(found, lock.upstream_files, shown(source), hint=_REPAIR)
    return dict(found.content)


def _read(source: str, lock: Lock) -> Found:
    expected = lock.upstream_files
    path = Path(source).expanduser()
    if path.is_file():
        return read_tarball(path, source, expected)
    if path.is_dir():
        return _read_directory(path, lock)
    if not _URL.match(source):
        raise UsageError(f"there is no {source}", hint=_REPAIR)
    if urlsplit(source).path.endswith(_TARBALL):
        return read_tarball(_download(source), shown(source), expected)
    return _read_git(source, lock)


def _read_directory(path: Path, lock: Lock) -> Found:
    found = read_folder(path, lock.upstream_files)
    if not difference(found, lock.upstream_files):
        return found
    is_bare = (path / "objects").is_dir() and (path / "HEAD").is_file()
    if is_bare or head(path) not in (None, lock.commit):
        return _read_git(str(path.absolute()), lock)
    return found


def _read_git(repository: str, lock: Lock) -> Found:
    tops = sorted({file.split("/")[0] for file in lock.upstream_files})
    tar = read_commit(repository, lock.commit, tops)
    return read_tarball(tar, shown(repository), lock.upstream_files)


def _download(url: str) -> bytes:
    try:
        return read_start(Location(url), _TARBALL_LIMIT_BYTES)
    except RefusedError as error:
        raise EnvironmentNotReady(f"no tarball at {shown(url)}: {error}", hint=_REPAIR) from error
    except EnvironmentNotReady as error:
        raise EnvironmentNotReady(error.message, hint=_REPAIR) from error


def read_tarball(tar: Path | bytes, what: str, expected: Collection[str]) -> Found:
    """Read the expected files out of a tar, compressed or not, with or without a leading folder.

    Links in it are not followed: one in place of an expected file counts as extra.

    Raises:
        EnvironmentNotReady: it cannot be read.
        IntegrityError: it is damaged, or a name in it leads out of its folder.
    """
    try:
        with (
            io.BytesIO(tar) if isinstance(tar, bytes) else tar.open("rb") as file,
            tarfile.open(fileobj=file, mode="r:*") as archive,
        ):
            return _tarball_read(archive, expected)
    except _DAMAGED as error:
        raise IntegrityError(
            f"{what} is damaged or no tar", hint="get it again, as a .tar.gz"
        ) from error
    except OSError as error:
        raise EnvironmentNotReady(
            f"cannot read {what}: {error.strerror or error}", hint="check the file"
        ) from error


def _tarball_read(archive: tarfile.TarFile, expected: Collection[str]) -> Found:
    members = {
        inner_path(path.as_posix()): member
        for member in archive
        if not member.isdir() and (path := PurePosixPath(member.name)).parts
    }
    leading = _leading_folder(members, expected)
    content, extra = {}, []
    for full_name, member in members.items():
        name = full_name.removeprefix(leading)
        if not belongs(name, expected):
            continue
        if name in expected and member.isreg() and (data := archive.extractfile(member)):
            content[name] = data.read(LIMIT_BYTES + 1)
        elif not (member.isreg() and left_by_use(name)):
            extra.append(name)
    return Found(content, tuple(sorted(extra)))


def _leading_folder(names: Iterable[str], expected: Collection[str]) -> str:
    """The folder that forges put everything into, with its slash; empty where there is none."""
    paths = set(names)
    tops = {path.split("/")[0] for path in paths}
    return f"{tops.pop()}/" if len(tops) == 1 and not paths & set(expected) else ""


@dataclass(frozen=True)
class Fetched:
    """What a fetch came to.

    Attributes:
        directory: the pristine tree.
        source: where it came from; None if it was there already.
    """

    directory: Path
    commit: str
    files: int
    source: str | None


def fetch(settings: Settings, source: str | None, notice: Callable[[str], None]) -> Fetched:
    """Put the pinned commit at ``pristine``, whole or not at all, unless it is there already.

    Args:
        source: an address, a clone, a folder or a tarball; by default the mirror of the settings,
            else the repository of the lock.
        notice: called with each line of progress.

    Raises:
        UsageError: ``source`` is nothing of that kind, or something else lies in ``pristine``.
        EnvironmentNotReady: it cannot be had, or cannot be written.
        IntegrityError: what came is not what the lock says; nothing was written then.
    """
    lock, target = pinned(settings), pristine_dir(settings)
    if _is_there(target, lock):
        if source is not None:
            notice(f"the pinned commit is there already: {shown(source)} is not read")
        return Fetched(target, lock.commit, len(lock.upstream_files), None)
    origin = source or settings.upstream_mirror or lock.repository
    with exclusive(target, "writing"):
        notice(f"fetching commit {lock.commit} from {shown(origin)}")
        content = read_source(origin, lock)
        write_tree(target, content)
    return Fetched(target, lock.commit, len(content), shown(origin))


def _is_there(target: Path, lock: Lock) -> bool:
    """Whether the pristine tree is at ``target``; a drifted one may be replaced."""
    if not target.exists():
        return False
    tops = {file.split("/")[0] for file in lock.upstream_files}
    if not target.is_dir() or not {path.name for path in target.iterdir()} <= tops:
        raise UsageError(
            f"{target} holds something else than the upstream repo",
            hint="set KIT_UPSTREAM_TREE to a folder of its own",
        )
    return not difference(read_folder(target, lock.upstream_files), lock.upstream_files)
