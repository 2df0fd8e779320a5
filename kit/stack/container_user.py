"""Who a container has to run as, to be able to read the model's directory."""

import stat
from pathlib import Path

from kit.errors import EnvironmentNotReady

_ROOT = 0


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
            hint=f"let others read it: chmod -R a+rX {directory}",
        )
    return f"{owner.st_uid}:{owner.st_gid}"


def _public(path: Path) -> bool:
    """Whether everybody may read the file, or enter and list the folder."""
    mode = path.stat().st_mode
    needed = stat.S_IROTH | stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH
    return mode & needed == needed
