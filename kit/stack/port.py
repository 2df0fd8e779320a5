"""Who listens on a TCP port, as far as the system tells."""

import contextlib
import errno
import socket
from pathlib import Path

from kit.errors import EnvironmentNotReady, UsageError
from kit.memory.proc import PROC

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


def holder_of(port: int, *, proc: Path = PROC) -> str:
    """A clause naming the process that listens on ``port``."""
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port, proc)}
    for folder in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # not ours to look into, or it has ended
            if any(str(link.readlink()) in sockets for link in (folder / "fd").iterdir()):
                return f"process {folder.name} ({_command(folder)}) listens on it"
    return "another program listens on it"


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


def _command(folder: Path) -> str:
    """The command line of a process, shortened to one that fits into a message."""
    words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
    line = " ".join(words).strip()
    return line if len(line) <= 60 else line[:59] + "…"


def _no_address(host: str) -> UsageError:
    return UsageError(
        f"{host!r} is not an address of this machine",
        hint="use --host 127.0.0.1 (this machine only) or --host 0.0.0.0 (every network)",
    )
