"""A server of the kit that `kit up` has no record of, as when its state file was damaged."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePath

from kit.stack.port import Listening, listening_on


@dataclass(frozen=True)
class Stray:
    """A server that nobody remembers.

    Attributes:
        where: what it runs in.
        what: what it is, as a clause.
        remedy: the command that ends it.
        pid: of a process.
    """

    where: str
    what: str
    remedy: str
    pid: int | None = None

    @property
    def text(self) -> str:
        """What it is and what to do about it, in one line."""
        return f"{self.what}, and kit up has no record of it; end it: {self.remedy}"


def stray_server(port: int) -> Stray | None:
    """The `kit serve` on ``port``, whoever started it; None where there is none to be seen."""
    found = listening_on(port)
    if found is None or not _is_kit_serve(found):
        return None
    where = f"process {found.pid}"
    return Stray(where, f"{where} is a kit serve on port {port}", f"kill {found.pid}", found.pid)


def _is_kit_serve(found: Listening) -> bool:
    words = found.command
    return any(PurePath(word).name == "kit" and verb == "serve" for word, verb in pairwise(words))
