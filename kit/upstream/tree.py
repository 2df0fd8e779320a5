"""Where upstream's trees lie, and whether the rewritten one is what this kit makes of it."""

from pathlib import Path

from kit.errors import EnvironmentNotReady, IntegrityError, UsageError
from kit.lock import Lock, read_lock, read_named_lock
from kit.settings import Settings, bundled
from kit.upstream.files import Manifest, read_folder, read_manifest, require_same
from kit.upstream.render import MEGATRON, changed_files
from kit.upstream.selection import rewrite_digest, select

_OWN_LOCK = "scripts/lock_upstream.py writes one; the kit's own is used where none is named"
_MAKE = "make it: kit upstream fetch && kit upstream render"


def pristine_dir(settings: Settings) -> Path:
    """Where `kit upstream fetch` puts the pinned commit."""
    return settings.upstream_dir / "pristine"


def rewritten_dir(settings: Settings) -> Path:
    """Where `kit upstream render` puts the rewritten tree."""
    return settings.upstream_dir / "rewritten"


def pinned(settings: Settings) -> Lock:
    """The lock that says what upstream must be.

    Raises:
        EnvironmentNotReady: it is one of the user's own, which is not there or cannot be read.
        IntegrityError: it is damaged, or says nothing of upstream's files.
    """
    path = settings.upstream_lock or bundled("kit.lock")
    named = settings.upstream_lock is not None
    lock = read_named_lock(path, _OWN_LOCK) if named else read_lock(path)
    if not lock.upstream_files:
        raise IntegrityError(f"{path} lists no files of upstream", hint=_OWN_LOCK)
    return lock


def read_pristine(settings: Settings) -> dict[str, bytes]:
    """Upstream's files by path in its repository, every one as the lock says.

    Raises:
        EnvironmentNotReady: they are not there.
        IntegrityError: something in the tree is drifted; it names the files.
    """
    root, lock = pristine_dir(settings), pinned(settings)
    if not root.is_dir():
        raise EnvironmentNotReady(
            f"there is no upstream tree at {root}", hint="get it: kit upstream fetch"
        )
    found = read_folder(root, lock.upstream_files)
    require_same(found, lock.upstream_files, str(root), "get it again: kit upstream fetch")
    return dict(found.content)


def require_rewritten(settings: Settings) -> Path:
    """The rewritten ``deepspeed-megatron`` folder, after every file of the tree was checked.

    Raises:
        EnvironmentNotReady: it is not there, or was made by other rewrites or of another commit.
        IntegrityError: it is drifted.
    """
    root = rewritten_dir(settings)
    lock, manifest = pinned(settings), read_manifest(root)
    if manifest is None:
        raise EnvironmentNotReady(f"there is no rewritten upstream tree at {root}", hint=_MAKE)
    if reason := outdated(manifest, lock):
        raise EnvironmentNotReady(f"the upstream tree at {root} {reason}", hint=_MAKE)
    expected = expected_files(manifest, lock)
    again = "make it again: kit upstream render"
    require_same(read_folder(root, expected), expected, str(root), again)
    return root / MEGATRON


def outdated(manifest: Manifest, lock: Lock) -> str | None:
    """Why a rewritten tree is not one that this kit makes; None if it is."""
    if manifest.commit != lock.commit:
        return f"is of commit {manifest.commit}, {lock.commit} is pinned"
    try:
        rewrites = select((), names=manifest.rewrites)
    except UsageError:
        return f"was made by other rewrites, those of spark-kit {manifest.kit}"
    same = rewrite_digest(rewrites) == manifest.digest
    if not same or changed_files(rewrites) != manifest.changed:
        return f"was made by other rewrites, those of spark-kit {manifest.kit}"
    return None


def expected_files(manifest: Manifest, lock: Lock) -> dict[str, str]:
    """sha256 of a rewritten tree's files: the lock's, but for those that rewrites have changed."""
    changed = {file: manifest.files.get(file, "") for file in manifest.changed}
    return {**lock.upstream_files, **changed}
