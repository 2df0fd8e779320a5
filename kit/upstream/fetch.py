"""Bringing the pinned commit in, as the pristine tree."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kit.errors import UsageError
from kit.files import exclusive
from kit.lock import Lock
from kit.settings import Settings
from kit.upstream.files import difference, read_folder, write_tree
from kit.upstream.git import shown
from kit.upstream.source import read_source
from kit.upstream.tree import pinned, pristine_dir


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
        notice: is told what happens, in a line each.

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
