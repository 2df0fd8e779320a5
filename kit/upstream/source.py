"""Where upstream comes from: a git repository, a clone or folder of this machine, or a tarball."""

import re
from pathlib import Path
from urllib.parse import urlsplit

from kit.errors import EnvironmentNotReady, UsageError
from kit.lock import Lock
from kit.upstream.files import Found, difference, read_folder, require_same
from kit.upstream.git import head, read_commit, shown
from kit.upstream.tarball import read_tarball
from kit.weights.ask import read_start
from kit.weights.http import Location, RefusedError

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
