"""Whose a server of the kit is; and one of ours that `kit up` has no record of, as when its state
file was damaged."""

import hashlib
import os
import socket
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePath

from kit.memory.probes.proc import PROC
from kit.runtime.port import Listening, listening_on

OWNER_VARIABLE = "KIT_OWNER"
_MACHINE_ID = Path("/etc/machine-id")


@dataclass(frozen=True)
class Orphan:
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


def owner_of(state_dir: Path) -> str:
    """What a server carries that says whose it is: ``MACHINE:FOLDER`` of the kit's state.

    Several users, or machines, may share an engine and call their projects the same.
    """
    try:
        machine = _MACHINE_ID.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        machine = ""
    digest = hashlib.sha256((machine or socket.gethostname()).encode()).hexdigest()
    return f"{digest[:12]}:{state_dir.resolve()}"


def orphaned_server(port: int, owner: str) -> Orphan | None:
    """The `kit serve` on ``port``, unless the kit of another state folder started it.

    None where there is none to be seen.
    """
    found = listening_on(port)
    if found is None or not _is_kit_serve(found) or _owner_of_process(found.pid) not in ("", owner):
        return None
    where = f"process {found.pid}"
    return Orphan(where, f"{where} is a kit serve on port {port}", f"kill {found.pid}", found.pid)


def _is_kit_serve(found: Listening) -> bool:
    words = found.command
    return any(PurePath(word).name == "kit" and verb == "serve" for word, verb in pairwise(words))


def _owner_of_process(pid: int) -> str:
    """As its environment says; empty: it was started by hand."""
    try:
        entries = (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    mark = f"{OWNER_VARIABLE}=".encode()
    return next((os.fsdecode(e.removeprefix(mark)) for e in entries if e.startswith(mark)), "")
