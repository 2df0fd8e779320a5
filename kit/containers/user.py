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


def container_user(directory: Path, key_file: Path | None = None) -> str | None:
    """``uid:gid`` that a container must run as to read ``directory``; None: any user can.

    Only the folder itself and what is in it count, and ``key_file``: a container reaches them by no
    other way.

    Raises:
        EnvironmentNotReady: only root can, and the container does not run as root; or one user can
            read the one and another the other.
    """
    mounted = [directory, *directory.rglob("*"), *([] if key_file is None else [key_file])]
    private = [path for path in mounted if not _public(path)]
    if not private:
        return None
    owner = private[0].stat()
    if owner.st_uid == _ROOT:
        raise EnvironmentNotReady(
            f"only root can read {private[0]}, and the container does not run as root",
            hint=f"let others read it: chmod -R a+rX {quote(str(directory))}"
            if private[0] != key_file
            else f"give it to whom the weights belong to: chown UID {quote(str(key_file))}",
        )
    if key_file in private and key_file.stat().st_uid != owner.st_uid:
        raise EnvironmentNotReady(
            f"no user but root can read both {directory} and {key_file}",
            hint=f"let the owner of the first read the second: chown {owner.st_uid} "
            f"{quote(str(key_file))}",
        )
    return f"{owner.st_uid}:{owner.st_gid}"


def _public(path: Path) -> bool:
    """Whether everybody may read the file, or enter and list the folder."""
    mode = path.stat().st_mode
    needed = stat.S_IROTH | stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH
    return mode & needed == needed
