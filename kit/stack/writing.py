"""Writing into the state folder, which the user may have set to one that cannot be written."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kit.errors import EnvironmentNotReady


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around code that writes to ``path``.

    Raises:
        EnvironmentNotReady: that raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> EnvironmentNotReady:
    """What to raise for an ``error`` met when writing to ``path``."""
    return EnvironmentNotReady(
        f"cannot write to {path}: {error.strerror or error}",
        hint="set KIT_STATE_DIR to a folder that can be written",
    )
