"""One `kit up` at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from kit.errors import ServiceError
from kit.files import unwritable, writing
from kit.runtime.listener import Listener


@contextmanager
def exclusive(state_dir: Path, timeout_seconds: float, listener: Listener) -> Iterator[None]:
    """Hold the lock of ``state_dir``, at first waiting for another `kit up` to end.

    Raises:
        EnvironmentNotReady: ``state_dir`` cannot be written.
        ServiceError: the other one took longer than ``timeout_seconds``.
    """
    lock = filelock.FileLock(state_dir / "up.lock")
    try:
        with writing(state_dir):
            state_dir.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        listener.say("another kit up is at work; waiting for it to end")
        try:
            lock.acquire(timeout=timeout_seconds)
        except filelock.Timeout as error:
            raise ServiceError(
                f"another kit up did not end within {timeout_seconds:.0f} s",
                hint="see kit status and kit logs; kit down ends what it started",
            ) from error
    except OSError as error:
        raise unwritable(state_dir, error) from error
    try:
        yield
    finally:
        lock.release()
