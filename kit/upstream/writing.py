"""Writing a tree whole or not at all."""

from collections.abc import Mapping
from pathlib import Path

from kit.errors import EnvironmentNotReady
from kit.weights.output import publish, remove, work_directory


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
