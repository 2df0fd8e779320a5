import os
import socket

import pytest

from kit.errors import EnvironmentNotReady, UsageError
from kit.runtime.port import holder_of, require_free


@pytest.fixture
def busy():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # noqa: S104
def test_busy(busy, host):
    with pytest.raises(EnvironmentNotReady) as caught:
        require_free(host, busy)
    assert f"process {os.getpid()} (" in caught.value.message
    assert f"--port {busy + 1}" in caught.value.hint


def test_free_again(busy):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    require_free("127.0.0.1", port)
    assert port != busy


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7"])
def test_foreign_address(host):
    with pytest.raises(UsageError, match="not an address of this machine"):
        require_free(host, 8000)


def test_unknown_holder(tmp_path):
    assert holder_of(8000, proc=tmp_path) == "another program listens on it"


def test_holder_in_a_written_proc(tmp_path):
    rows = "  sl  local_address rem_address   st\n"
    rows += "   0: 0100007F:1F40 00000000:0000 0A 0:0 0:0 0 1000 0 4321 1\n"
    rows += "   1: 0100007F:1F40 0100007F:9999 01 0:0 0:0 0 1000 0 9999 1\n"
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text(rows)
    for pid, inode in ((11, 9999), (12, 4321)):
        (tmp_path / f"{pid}/fd").mkdir(parents=True)
        (tmp_path / f"{pid}/fd/3").symlink_to(f"socket:[{inode}]")
        (tmp_path / f"{pid}/cmdline").write_bytes(b"python\0-m\0" + b"x" * 100 + b"\0")
    holder = holder_of(8000, proc=tmp_path)
    assert holder.startswith("process 12 (python -m xxx")
    assert holder.endswith("x…) listens on it")


def test_a_port_whose_connections_were_just_closed_is_free():
    """The side that closes first keeps its port in TIME_WAIT, as a server does that was stopped."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as asyncio's servers do
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            served, _ = server.accept()
            served.close()
            assert client.recv(1) == b""
    with socket.socket() as unprepared, pytest.raises(OSError, match="in use"):
        unprepared.bind(("127.0.0.1", port))
    require_free("127.0.0.1", port)
