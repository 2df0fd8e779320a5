"""Root may read and write everything; what users without that right meet is tested as nobody."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def held_back() -> Iterator[None]:
    """Within, permissions hold. Of root's own files, those in an ``open_folder`` can be reached."""
    users = os.getresuid()
    if os.geteuid() == 0:
        os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(*users)


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter and write to; pytest's are their owner's alone."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)
