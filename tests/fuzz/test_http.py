"""Answers of a server that means harm: a result, or an error in plain words; no file by name."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.errors import KitError
from kit.weights.fetch import ask
from kit.weights.fetch.ask import look, request_json
from kit.weights.fetch.http import Location, RefusedError
from kit.weights.fetch.transfer import Expected
from tests.downloads import ONE, get
from tests.file_server import Exchange, FileServer
from tests.fuzzing import FUZZ

CORPUS = Path(__file__).with_name("corpus") / "http"
NAMES = st.sampled_from(
    b"Content-Length Content-Range Content-Encoding Transfer-Encoding ETag Retry-After "
    b"Location Last-Modified Content-Type Accept-Ranges".split()
)
VALUES = st.sampled_from(
    (
        *(b"0", b"5", b"9" * 30, b"9" * 5000, b"-1", b"bytes 0-4/5", b"bytes */5", b"gzip"),
        *(b"bytes 0-511/99999999999999999999", b"chunked", b'"v"', b"http://[::1", b"/w.pt"),
        *(b"text/html", b"\xb2"),
    )
) | st.binary(max_size=30).map(lambda value: value.translate(None, b"\r\n"))
STATUS = st.sampled_from((200, 201, 204, 206, 302, 307, 404, 416, 429, 500, 999))


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    lines = [b"HTTP/1.1 %d X" % draw(STATUS)]
    pairs = draw(st.lists(st.tuples(NAMES, VALUES), max_size=5))
    lines += [name + b": " + value for name, value in pairs]
    body = draw(st.binary(max_size=40) | st.sampled_from((b"[" * 9000, b'{"a":1}', b"5\r\nabc")))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@pytest.fixture(scope="module")
def server() -> Iterator[FileServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ask, "PAUSES_S", ())
        with FileServer() as running:
            yield running


def attempt(server: FileServer, answer: bytes) -> None:
    def act(exchange: Exchange) -> None:
        exchange.handler.close_connection = True
        exchange.write(answer)

    server.always["/w.pt"] = act
    location = Location(server.url("/w.pt"))
    with tempfile.TemporaryDirectory() as name:
        target = Path(name) / "inner" / "w.pt"
        target.parent.mkdir()
        for request in (
            lambda: get(server, target, Expected(sha256="0" * 64), tuning=ONE),
            lambda: look(location, 512),
            lambda: request_json("GET", location),
        ):
            try:
                request()
            except KitError as error:
                assert error.message.replace("\n", "").isprintable()
                assert 0 < len(error.message) < 2000
            except RefusedError as error:
                assert str(error).isprintable()
        assert not target.exists()
        assert [path.name for path in Path(name).iterdir()] == ["inner"]


@FUZZ
@given(answer=answers() | st.binary(max_size=200))
def test_answers(server: FileServer, answer: bytes) -> None:
    attempt(server, answer)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*")), ids=lambda path: path.name)
def test_what_was_found_before(server: FileServer, path: Path) -> None:
    attempt(server, path.read_bytes())
