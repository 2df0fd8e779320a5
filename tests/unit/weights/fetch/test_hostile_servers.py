"""What servers may answer, and no traceback, no endless wait and no wrong file comes of it."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from kit.errors import EnvironmentNotReady, KitError
from kit.weights.fetch import ask, http
from kit.weights.fetch.ask import look, read_start, request_json
from kit.weights.fetch.http import Location, RefusedError, Validators, printable
from kit.weights.fetch.sources.lfs import Pointer, _download_action
from kit.weights.fetch.transfer import Expected
from tests.downloads import CONTENT, ONE, SHA, get, left_in
from tests.file_server import Exchange, FileServer, Served

DIGITS = "9" * 5000


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer({"/w.pt": Served(CONTENT)}) as running:
        yield running


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "PAUSES_S", ())


def raw(head: str, body: bytes = b"", pause_s: float = 0.0) -> Callable[[Exchange], None]:
    """An answer as it stands, after which the connection ends; ``pause_s`` before each byte."""

    def act(exchange: Exchange) -> None:
        exchange.handler.close_connection = True
        exchange.write(head.encode("latin-1") + b"\r\n\r\n")
        for i in range(len(body) if pause_s else 0):
            exchange.write(body[i : i + 1])
            time.sleep(pause_s)
        if not pause_s:
            exchange.write(body)

    return act


ANSWERS = {
    "range of 5000 digits": raw(f"HTTP/1.1 206 P\r\nContent-Range: bytes 0-511/{DIGITS}", b"x"),
    "range of other digits": raw("HTTP/1.1 206 P\r\nContent-Range: bytes 0-5/\xb2\xb3", b"x"),
    "range of another start": raw(f"HTTP/1.1 206 P\r\nContent-Range: bytes {DIGITS}-9/9", b"x"),
    "no range": raw("HTTP/1.1 206 P", b"x"),
    "length of 5000 digits": raw(f"HTTP/1.1 200 OK\r\nContent-Length: {DIGITS}", b"x"),
    "length of words": raw("HTTP/1.1 200 OK\r\nContent-Length: many", b"x"),
    "retry in the year 9e10": raw("HTTP/1.1 503 B\r\nRetry-After: Mon, 1 Jan 90000000000 1:1:1"),
    "retry in 5000 digits": raw(f"HTTP/1.1 503 B\r\nRetry-After: {DIGITS}"),
    "retry in words": raw("HTTP/1.1 503 B\r\nRetry-After: \xb2 soon"),
    "redirect to nothing": raw("HTTP/1.1 302 F\r\nLocation: http://[::1"),
    "redirect to a strange port": raw("HTTP/1.1 302 F\r\nLocation: http://h:99999999/"),
    "redirect to another protocol": raw("HTTP/1.1 302 F\r\nLocation: gopher://h/"),
    "redirect to a long name": raw(f"HTTP/1.1 302 F\r\nLocation: http://{'x' * 300}.org/"),
    "no content": raw("HTTP/1.1 204 N"),
    "reset content": raw("HTTP/1.1 205 R"),
    "status of no protocol": raw("HTTP/1.1 999 \x1b[2J"),
    "no HTTP": raw("\x1b[31mSSH-2.0"),
    "a broken gzip": raw("HTTP/1.1 200 OK\r\nContent-Encoding: gzip", b"no gzip"),
    "a cut body": raw(f"HTTP/1.1 200 OK\r\nContent-Length: {len(CONTENT)}", CONTENT[:9]),
    "a cut chunk": raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", b"ff\r\nabc"),
    "a body without an end": raw("HTTP/1.1 200 OK", CONTENT[:9000]),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_an_error_in_words(server: FileServer, tmp_path: Path, name: str) -> None:
    server.always["/w.pt"] = ANSWERS[name]
    with pytest.raises(KitError) as caught:
        get(server, tmp_path / "w.pt", tuning=ONE)
    assert caught.value.message.replace("\n", "").isprintable()
    assert len(caught.value.message) < 600
    assert "w.pt" not in left_in(tmp_path)


@pytest.mark.parametrize("name", ANSWERS)
def test_a_small_request_ends_in_words_or_bytes(server: FileServer, name: str) -> None:
    server.always["/w.pt"] = ANSWERS[name]
    location = Location(server.url("/w.pt"))
    for request in (lambda: look(location, 512), lambda: request_json("GET", location)):
        try:
            request()
        except KitError as error:
            assert error.message.replace("\n", "").isprintable()
        except RefusedError:
            pass


def test_a_body_without_an_end_is_taken_where_its_digest_is_known(
    server: FileServer, tmp_path: Path
) -> None:
    server.always["/w.pt"] = raw("HTTP/1.1 200 OK", CONTENT)
    assert get(server, tmp_path / "w.pt", Expected(sha256=SHA), tuning=ONE).sha256 == SHA


def test_an_etag_of_other_letters_is_not_sent_back(server: FileServer, tmp_path: Path) -> None:
    assert Validators('"\xe9"', "Mon, 01 Jan 2026 00:00:00 GMT").strong is not None
    assert Validators('"\xe9"', None).strong is None
    server.files["/w.pt"] = Served(CONTENT, etag='"v\xe9"')
    assert get(server, tmp_path / "w.pt", tuning=ONE).sha256 == SHA


@pytest.mark.parametrize("body", [b"[" * 100_000, b"9" * 5000, b"\xff", b"", b'{"a":' * 99_999])
def test_json_that_is_none(server: FileServer, body: bytes) -> None:
    server.always["/j"] = lambda exchange: exchange.status(200, {}, body)
    with pytest.raises(EnvironmentNotReady, match="not JSON"):
        request_json("GET", Location(server.url("/j")))


def test_an_answer_without_end_is_left(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.always["/j"] = lambda exchange: exchange.status(200, {}, b"[" + b" " * (5 << 20))
    with pytest.raises(EnvironmentNotReady, match="more than 4 MiB"):
        request_json("GET", Location(server.url("/j")))
    monkeypatch.setattr(ask, "TOTAL_S", 0.3)
    server.always["/j"] = raw("HTTP/1.1 200 OK", b" " * 1000, pause_s=0.05)
    with pytest.raises(EnvironmentNotReady, match="no data"):
        request_json("GET", Location(server.url("/j")))


def test_headers_without_end_are_left(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trickle(exchange: Exchange) -> None:
        exchange.handler.close_connection = True
        exchange.write(b"HTTP/1.1 200 OK\r\n")
        for number in range(200):
            exchange.write(f"X-{number}: y\r\n".encode())
            time.sleep(0.05)

    server.always["/w.pt"] = trickle
    monkeypatch.setattr(ask, "TOTAL_S", 0.3)
    monkeypatch.setattr(http, "HEADERS_S", 0.3)
    with pytest.raises(EnvironmentNotReady):
        read_start(Location(server.url("/w.pt")), 10)
    with pytest.raises(EnvironmentNotReady, match="does not begin"):
        get(server, tmp_path / "w.pt", tuning=ONE)


def test_a_trickle_of_data_is_left(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "SLOW_S", 0.3)
    size = len(CONTENT)
    head = f'HTTP/1.1 206 P\r\nETag: "v1"\r\nContent-Range: bytes 0-{size - 1}/{size}'
    server.acts = [raw(head, CONTENT[:200], pause_s=0.05)]
    with pytest.raises(EnvironmentNotReady, match="bytes a second"):
        get(server, tmp_path / "w.pt", tuning=ONE)
    assert get(server, tmp_path / "w.pt", tuning=ONE).sha256 == SHA


def test_words_of_servers_move_no_cursor() -> None:
    assert printable("a\x1b[2J\r\nb\u202ec") == "a [2J  b c"
    assert len(printable("x" * 1000)) == 300


LFS = Location("https://lfs.example.org/x")
POINTER = Pointer(SHA, 3)


def action(href: object, header: object = None) -> object:
    download = {"href": href, "header": header or {}}
    return {"objects": [{"oid": SHA, "size": 3, "actions": {"download": download}}]}


@pytest.mark.parametrize(
    "answer",
    [
        action("http://169.254.169.254/latest"),
        action("https://169.254.169.254/latest"),
        action("https://[fe80::1]/"),
        action("https://[::ffff:169.254.169.254]/"),
        action("https://127.0.0.1:8000/"),
        action("https://localhost/"),
        action("https://10.0.0.1/"),
        action("http://lfs.example.org/"),
        action("file:///etc/passwd"),
        action("https://[::1"),
        action(7),
        action(None),
        action("https://cdn.example.org/", {"X\r\nY": "1"}),
        action("https://cdn.example.org/", {"X": "1\r\nY: 2"}),
        action("https://cdn.example.org/", {"X": "\xe9"}),
        action("https://cdn.example.org/", ["X"]),
        {"objects": [7]},
        {"objects": {SHA: 1}},
        [],
        {"objects": [{"oid": SHA, "error": "no"}]},
    ],
)
def test_an_lfs_answer_that_leads_astray(answer: object) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError, httpx.InvalidURL)):
        _download_action(answer, POINTER, "w.pt", LFS)


def test_an_lfs_answer_may_name_another_host() -> None:
    found = _download_action(action("https://cdn.example.org/a", {"X": "1"}), POINTER, "w.pt", LFS)
    assert (found.url, found.headers) == ("https://cdn.example.org/a", {"X": "1"})
    inside = Location("http://10.1.1.1/x")
    assert _download_action(action("http://10.1.1.2/a"), POINTER, "w", inside).host == "10.1.1.2"


def test_words_of_an_lfs_server_are_shown_as_words() -> None:
    says = {"objects": [{"oid": SHA, "error": {"message": "\x1b[2Jgone", "code": 404}}]}
    with pytest.raises(EnvironmentNotReady) as caught:
        _download_action(json.loads(json.dumps(says)), POINTER, "w.pt", LFS)
    assert "\x1b" not in caught.value.message
