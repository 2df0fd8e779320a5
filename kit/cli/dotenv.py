"""The .env file beside compose.yaml, which Compose reads: its settings hold for `kit`, too."""

import os
from collections.abc import MutableMapping
from io import StringIO
from pathlib import Path

from kit.errors import UsageError
from kit.settings import bundled

FILE_NAME = ".env"
_OURS = ("KIT_", "COMPOSE_PROJECT_NAME")


def load_dotenv(environ: MutableMapping[str, str] = os.environ, path: Path | None = None) -> None:
    """Add the file's settings to ``environ``, whose own win.

    Read by python-dotenv, whose format is Compose's: quotes and escapes, ``${VARIABLE}``, the last
    of two lines for one name.

    Raises:
        UsageError: the file is no UTF-8 text.
    """
    path = path or bundled("compose.yaml").with_name(FILE_NAME)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError:
        return
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8 text: {error.reason} at byte {error.start}",
            hint="save it as UTF-8 (PowerShell's > writes UTF-16: Out-File -Encoding utf8)",
        ) from error
    from dotenv import dotenv_values  # most have no such file

    for name, value in dotenv_values(stream=StringIO(text)).items():
        if value is not None and name.startswith(_OURS):
            environ.setdefault(name, value)
