"""Writing where the user may have said to, which may be a place that cannot be written.

It is the state folder, unless a hint says otherwise.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kit.errors import EnvironmentNotReady

_STATE_HINT = "set KIT_STATE_DIR to a folder that can be written"


@contextmanager
def writing(path: Path, hint: str = _STATE_HINT) -> Iterator[None]:
    """Around code that writes to ``path``.

    Raises:
        EnvironmentNotReady: that raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise unwritable(path, error, hint) from error


def unwritable(path: Path, error: OSError, hint: str = _STATE_HINT) -> EnvironmentNotReady:
    """What to raise for an ``error`` met when writing to ``path``."""
    return EnvironmentNotReady(f"cannot write to {path}: {error.strerror or error}", hint=hint)
