"""Proxies of the environment, in every form that curl and requests understand."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from kit.doctor.gather.network import ask as ask_for_headers
from kit.errors import EnvironmentNotReady, UsageError
from kit.weights.fetch import ask, proxy
from kit.weights.fetch.ask import read_start
from kit.weights.fetch.http import DataClient, InterruptedTransferError, Location, Validators
from kit.weights.fetch.proxy import for_others, proxy_of
from tests.file_server import FileServer, Served

URL = httpx.URL("https://hub.example.com/file")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://p:3128"}, "http://p:3128"),
        ({"https_proxy": "p:3128"}, "http://p:3128"),
        ({"https_proxy": "//p:3128"}, "http://p:3128"),
        ({"https_proxy": "http://low:1", "HTTPS_PROXY": "http://up:2"}, "http://low:1"),
        ({"https_proxy": "", "HTTPS_PROXY": "http://up:2"}, None),
        ({"HTTPS_PROXY": "", "ALL_PROXY": "HTTP://p:1"}, "http://p:1"),
        ({"http_proxy": "http://p:3128"}, None),
        ({"all_proxy": "socks://127.0.0.1:7891/"}, "socks5://127.0.0.1:7891/"),
        ({"ALL_PROXY": "socks5h://p:1080"}, "socks5h://p:1080"),
        ({"ALL_PROXY": " http://user:pass@[::1]:8080 "}, "http://user:pass@[::1]:8080"),
    ],
)
def test_variables_are_read_as_curl_reads_them(
    environ: dict[str, str], expected: str | None
) -> None:
    found = proxy_of(URL, environ)
    assert (found and str(found)) == expected


@pytest.mark.parametrize(
    ("excepted", "address"),
    [
        ("example.com", "https://hub.example.com"),
        (".example.com", "https://example.com"),
        ("*.example.com", "https://hub.example.com"),
        ("a.org, hub.example.com", "https://HUB.example.com."),
        ("a.org hub.example.com", "https://hub.example.com"),
        ("hub.example.com:443", "https://hub.example.com"),
        ("https://hub.example.com", "https://hub.example.com"),
        ("*", "https://[fe80::1]"),
        ("*", "https://hub.example.com"),
        ("10.0.0.0/8", "https://10.20.30.40"),
        ("127.0.0.1", "https://127.0.0.1:8443"),
        ("::1", "https://[0:0::1]"),
        ("[::1]:8443", "https://[::1]:8443"),
        ("fd00::/8", "https://[fd12::1]"),
    ],
)
def test_no_proxy(excepted: str, address: str) -> None:
    environ = {"ALL_PROXY": "http://p:1", "NO_PROXY": excepted}
    assert proxy_of(httpx.URL(address), environ) is None


@pytest.mark.parametrize(
    ("excepted", "address"),
    [
        ("example.com", "https://notexample.com"),
        ("example.com:80", "https://example.com"),
        ("http://example.com", "https://example.com"),
        ("10.0.0.0/8", "https://11.0.0.1"),
        ("10.0.0.0/8", "https://10.example.com"),
        ("10.0.0.0/99", "https://10.0.0.1"),
        (" , ", "https://example.com"),
        ("1.1.1.1:999999999", "https://1.1.1.1"),
    ],
)
def test_what_no_proxy_does_not_mean(excepted: str, address: str) -> None:
    environ = {"ALL_PROXY": "http://p:1", "NO_PROXY": excepted}
    assert proxy_of(httpx.URL(address), environ) is not None


@pytest.mark.parametrize(
    "value",
    [
        '"http://127.0.0.1:7890"',
        "ftp://u:secret@p:1",
        "socks4://u:secret@p:1",
        "http://u:secret@",
        "http://p:port",
        "http://p:99999999",
        "http://two words:1",
        "http://",
        "http://\x1b[31mred:1",
        "'p:1'",
    ],
)
def test_a_variable_that_cannot_be_understood_is_named(value: str) -> None:
    with pytest.raises(UsageError) as caught:
        proxy_of(URL, {"HTTPS_PROXY": value})
    assert caught.value.message.startswith("HTTPS_PROXY ")
    assert "secret" not in caught.value.message
    assert "\x1b" not in caught.value.message
    assert "socks5://HOST:PORT" in caught.value.hint


def test_a_variable_that_is_not_needed_does_no_harm() -> None:
    environ = {"HTTP_PROXY": "ftp://p", "ALL_PROXY": "nonsense://", "NO_PROXY": "example.com"}
    assert proxy_of(URL, environ) is None


def test_other_libraries_get_the_form_that_they_read() -> None:
    environ = {
        "ALL_PROXY": "socks://p:1",
        "https_proxy": "p:3128",
        "NO_PROXY": "[::1], a.org *.b.org .c.org 10.0.0.0/8",
        "no_proxy": " , ",
    }
    assert for_others(environ) == {
        "ALL_PROXY": "socks5://p:1",
        "https_proxy": "http://p:3128",
        "NO_PROXY": "::1,a.org,b.org,.c.org,10.0.0.0/8",
    }
    with pytest.raises(UsageError, match="HTTP_PROXY"):
        for_others({"HTTP_PROXY": "ftp://p"})


@contextmanager
def socks_server(served: FileServer) -> Iterator[tuple[int, list[bytes]]]:
    """A SOCKS5 proxy (RFC 1928) without a login that leads every connection to ``served``."""
    asked: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def answer(client: socket.socket) -> None:
        client.recv(2 + client.recv(2)[1] - 2)
        client.sendall(b"\x05\x00")
        asked.append(client.recv(512))
        client.sendall(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
        target = socket.create_connection(("127.0.0.1", served.port))
        threading.Thread(target=pump, args=(client, target), daemon=True).start()
        pump(target, client)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    with listener:
        yield listener.getsockname()[1], asked


def test_every_way_that_fetches_goes_through_a_socks_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with FileServer({"/f": Served(b"content")}) as server, socks_server(server) as (port, asked):
        monkeypatch.setenv("ALL_PROXY", f"socks://127.0.0.1:{port}/")
        location = Location("http://far.example/f")  # a name that only the proxy can know
        assert read_start(location, 100) == b"content"
        assert ask_for_headers(location.url, "test").problem is None
        assert _download(location) == b"content"
    assert len(asked) == 3
    assert all(b"far.example" in request for request in asked)


def _download(location: Location) -> bytes:
    import asyncio

    async def run() -> bytes:
        async with (
            DataClient(1, 5.0) as client,
            client.open(location, None, 0, Validators()) as reply,
        ):
            return b"".join([chunk async for chunk in reply.chunks])

    return asyncio.run(run())


def test_a_damaged_variable_is_no_traceback_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks4://p:1")
    location = Location("http://far.example/f")
    with pytest.raises(UsageError, match="ALL_PROXY"):
        read_start(location, 100)
    with pytest.raises(UsageError, match="ALL_PROXY"):
        _download(location)
    assert "ALL_PROXY" in str(ask_for_headers(location.url, "test").problem)


def test_what_is_no_socks_proxy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "PAUSES_S", ())
    monkeypatch.setattr(proxy, "_GREETING_S", 0.2)
    location = Location("http://far.example/f")
    with FileServer() as server:  # waits for the rest of a line
        monkeypatch.setenv("ALL_PROXY", f"socks5://127.0.0.1:{server.port}")
        with pytest.raises(EnvironmentNotReady, match="no data"):
            read_start(location, 100)
        with pytest.raises(InterruptedTransferError, match="no data"):
            _download(location)


def test_a_proxy_that_speaks_another_language_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "PAUSES_S", ())

    def answer() -> None:
        client, _ = listener.accept()
        client.recv(64)
        client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        client.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer, daemon=True).start()
        monkeypatch.setenv("ALL_PROXY", f"socks5://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(EnvironmentNotReady, match="does not answer as a SOCKS proxy"):
            read_start(Location("http://far.example/f"), 100)
