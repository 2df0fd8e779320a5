"""The .env file beside compose.yaml, which Compose reads: its settings hold for `kit`, too."""

import os
from collections.abc import MutableMapping
from pathlib import Path

from kit.settings import bundled

FILE_NAME = ".env"
_OURS = ("KIT_", "COMPOSE_PROJECT_NAME")


def load_dotenv(environ: MutableMapping[str, str] = os.environ, path: Path | None = None) -> None:
    """Add the file's settings to ``environ``, whose own win. Lines are ``NAME=value``.

    Values may stand in quotes; ``#`` begins a comment at a line's start, and after a blank.
    """
    path = path or bundled("compose.yaml").with_name(FILE_NAME)
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        name, assigned, value = line.strip().removeprefix("export ").partition("=")
        if assigned and name.strip().startswith(_OURS):
            environ.setdefault(name.strip(), _plain(value.strip()))


def _plain(value: str) -> str:
    for quote in "\"'":
        if value.startswith(quote) and (end := value.find(quote, 1)) > 0:
            return value[1:end]
    return value.partition(" #")[0].rstrip()
