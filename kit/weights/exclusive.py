"""One process at a time: a lock beside what is being made."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from kit.errors import EnvironmentNotReady


@contextmanager
def exclusive(target: Path, doing: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold a lock on ``target``; the system releases it when the process ends, however.

    Raises:
        EnvironmentNotReady: another process holds it, or there is no writing there.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        path = target.with_name(f".{target.name}.lock")
        lock = FileLock(path, timeout=wait_s)
        lock.acquire()
    except Timeout as error:
        if not path.exists():  # it could not be made: no process holds it
            raise EnvironmentNotReady(
                f"cannot write to {target.parent}", hint="choose another place"
            ) from error
        raise EnvironmentNotReady(
            f"another process is {doing} {target}",
            hint="wait until it has finished, then run the same command",
        ) from error
    except OSError as error:
        raise EnvironmentNotReady(
            f"cannot write to {target.parent}: {error.strerror}", hint="choose another place"
        ) from error
    with lock:
        yield
