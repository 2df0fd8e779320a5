"""Who listens on a TCP port, as far as the system tells."""

import contextlib
import errno
import socket
from dataclasses import dataclass
from pathlib import Path

from kit.errors import EnvironmentNotReady, UsageError
from kit.memory.probes.proc import PROC

_LISTEN = "0A"  # state column of /proc/net/tcp, see proc_pid_net(5)


def require_free(host: str, port: int) -> None:
    """Return when a server can bind ``host``:``port``.

    Raises:
        EnvironmentNotReady: another program holds the port, or binding it is not allowed.
        UsageError: ``host`` is no address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise _no_address(host) from error
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise _no_address(host) from error
            holder = holder_of(port) if error.errno == errno.EADDRINUSE else error.strerror
            raise EnvironmentNotReady(
                f"port {port} is not free: {holder}",
                hint=f"stop it, or choose another port: kit up --port {port + 1}",
            ) from error


@dataclass(frozen=True)
class Listening:
    """A process that listens on a port, and the words of its command line."""

    pid: int
    command: tuple[str, ...]


def listening_on(port: int, *, proc: Path = PROC) -> Listening | None:
    """The process that listens on ``port``; None: there is none, or we may not look into it."""
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port, proc)}
    for folder in proc.glob("[0-9]*") if sockets else ():
        with contextlib.suppress(OSError):  # not ours to look into, or it has ended
            if any(_target(link) in sockets for link in (folder / "fd").iterdir()):
                words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
                return Listening(int(folder.name), tuple(words))
    return None


def _target(link: Path) -> str:
    """Where a link of /proc/PID/fd points; empty: it was closed since the folder was listed."""
    try:
        return str(link.readlink())
    except FileNotFoundError:
        return ""


def holder_of(port: int, *, proc: Path = PROC) -> str:
    """A clause naming the process that listens on ``port``."""
    found = listening_on(port, proc=proc)
    if found is None:
        return "another program listens on it"
    line = " ".join(found.command).strip()
    line = line if len(line) <= 60 else line[:59] + "…"
    return f"process {found.pid} ({line}) listens on it"


def _listening_inodes(port: int, proc: Path) -> set[str]:
    """Inodes of the sockets that listen on ``port``: columns 1 (address), 3 (state) and 9."""
    inodes = set()
    for table in ("net/tcp", "net/tcp6"):
        with contextlib.suppress(OSError):
            rows = [line.split() for line in (proc / table).read_text().splitlines()[1:]]
            inodes |= {
                row[9] for row in rows if row[3] == _LISTEN and row[1].endswith(f":{port:04X}")
            }
    return inodes


def _no_address(host: str) -> UsageError:
    return UsageError(
        f"{host!r} is not an address of this machine",
        hint="use --host 127.0.0.1 (this machine only) or --host 0.0.0.0 (every network)",
    )
