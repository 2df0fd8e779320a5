"""Running a small command and reading what it prints."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ran:
    """A command that ended by itself."""

    exit_code: int
    out: str
    error: str

    @property
    def last_error(self) -> str:
        """The last line on stderr that says something."""
        lines = [line.strip() for line in self.error.splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {self.exit_code}, without a word"


def ran(
    command: Sequence[str], seconds: float, environ: Mapping[str, str] | None = None
) -> Ran | None:
    """What the command did; None: it is not installed.

    Raises:
        TimeoutError: it did not end in time; it was killed.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
            env={**(os.environ if environ is None else environ), "LC_ALL": "C.UTF-8"},
        )
    except FileNotFoundError:
        return None
    except subprocess.TimeoutExpired as error:
        text = f"{' '.join(command[:3])} did not end within {seconds:g} s"
        raise TimeoutError(text) from error
    return Ran(
        done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    )
