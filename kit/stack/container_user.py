"""What a container can read of the model's directory, and who it has to run as for that."""

import stat
from pathlib import Path
from shlex import quote

from kit.errors import EnvironmentNotReady

_ROOT = 0


def require_self_contained(directory: Path) -> None:
    """Return when no link in ``directory`` leads out of it: it is all that a container sees.

    Raises:
        EnvironmentNotReady: one does, as in Hugging Face's cache, or leads nowhere.
    """
    root = directory.resolve()
    for path in sorted(directory.rglob("*")):
        if not path.is_symlink():
            continue
        target = path.resolve()
        if not target.exists():
            raise EnvironmentNotReady(
                f"{path} is a link to {path.readlink()}, which is not there",
                hint="fetch or copy the model again",
            )
        if not target.is_relative_to(root):
            copy = quote(str(directory.with_name(f"{directory.name}-files")))
            raise EnvironmentNotReady(
                f"{path} is a link out of its folder, to {target}, which a container does not see",
                hint=f"serve real files: cp -rL {quote(str(directory))} {copy} (-rLl takes no room "
                "on the same disk); or serve it without a container: --runtime local",
            )


def container_user(directory: Path) -> str | None:
    """``uid:gid`` that a container must run as to read ``directory``; None: any user can.

    Only the folder itself and what is in it count: a container reaches it by no other way.

    Raises:
        EnvironmentNotReady: only root can, and the container does not run as root.
    """
    private = [path for path in (directory, *directory.rglob("*")) if not _public(path)]
    if not private:
        return None
    owner = private[0].stat()
    if owner.st_uid == _ROOT:
        raise EnvironmentNotReady(
            f"only root can read {private[0]}, and the container does not run as root",
            hint=f"let others read it: chmod -R a+rX {quote(str(directory))}",
        )
    return f"{owner.st_uid}:{owner.st_gid}"


def _public(path: Path) -> bool:
    """Whether everybody may read the file, or enter and list the folder."""
    mode = path.stat().st_mode
    needed = stat.S_IROTH | stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH
    return mode & needed == needed
