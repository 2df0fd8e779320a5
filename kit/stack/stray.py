"""A server of the kit that `kit up` has no record of, as when its state file was damaged."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePath

from kit.stack.port import Listening, listening_on


@dataclass(frozen=True)
class Stray:
    """A `kit serve` that listens on ``port``."""

    pid: int
    port: int

    @property
    def text(self) -> str:
        """What it is and what to do about it, in one line."""
        return (
            f"process {self.pid} is a kit serve on port {self.port} that kit up has no record of; "
            f"end it: kill {self.pid}"
        )


def stray_server(port: int) -> Stray | None:
    """The `kit serve` on ``port``, whoever started it; None where there is none to be seen."""
    found = listening_on(port)
    return Stray(found.pid, port) if found and _is_kit_serve(found) else None


def _is_kit_serve(found: Listening) -> bool:
    words = found.command
    return any(PurePath(word).name == "kit" and verb == "serve" for word, verb in pairwise(words))
