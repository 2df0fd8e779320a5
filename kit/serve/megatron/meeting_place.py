"""The folder in which the ranks of a server meet: it ends with the server, even a killed one's.

A server holds a lock (flock(2)) on its folder, which the kernel lets go when the server ends,
however that happens. Every start removes the folders that nobody holds any more.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "kit-ranks-"


class MeetingPlace:
    """A new folder of this process in the system's folder for temporary files.

    Attributes:
        folder: readable for this user alone.
    """

    def __init__(self) -> None:
        _remove_stale()
        self._lock: int | None
        self.folder, self._lock = _new_folder()

    def remove(self) -> None:
        """Remove it. A second call changes nothing."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _new_folder() -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        with contextlib.suppress(FileNotFoundError):  # another start removed it before the lock
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)


def _remove_stale() -> None:
    """Remove the folders of this user's servers that have ended."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # gone meanwhile, or no folder
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(lock).st_uid == os.geteuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
