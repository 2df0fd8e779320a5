"""What a download does not take for data, and what it does not tell to whom."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.errors import EnvironmentNotReady
from kit.weights.fetch.download import download
from kit.weights.fetch.http import Location
from tests.downloads import CONTENT, FAST, ONE, SHA, get, left_in
from tests.file_server import Exchange, FileServer, Served


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer({"/w.pt": Served(CONTENT)}) as running:
        yield running


HTML = b"\n <!DOCTYPE html><html>please log in</html>"


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_is_not_taken_for_data(server: FileServer, tmp_path: Path, kind: str) -> None:
    server.files["/w.pt"] = Served(HTML, ranges=False, content_type=kind)
    with pytest.raises(EnvironmentNotReady, match=r"a web page instead of w\.pt"):
        get(server, tmp_path / "w.pt")
    assert left_in(tmp_path) == set()


def test_a_web_page_in_the_middle_is_tried_again(server: FileServer, tmp_path: Path) -> None:
    page = {"Content-Type": "text/html"}
    server.acts = [lambda exchange: exchange.status(200, page, HTML)]
    notices: list[str] = []
    assert get(server, tmp_path / "w.pt", tuning=ONE, notices=notices).sha256 == SHA
    assert "a web page came" in notices[0]


def test_a_pointer_is_not_taken_for_data(server: FileServer, tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%b\nsize 3\n" % SHA.encode()
    server.files["/w.pt"] = Served(pointer)
    with pytest.raises(EnvironmentNotReady, match="only the git LFS pointer"):
        get(server, tmp_path / "w.pt")


def test_a_compressed_answer_is_refused(server: FileServer, tmp_path: Path) -> None:
    gzip = {"Content-Encoding": "gzip"}
    server.always["/w.pt"] = lambda exchange: exchange.status(200, gzip, b"x")
    with pytest.raises(EnvironmentNotReady, match="compressed"):
        get(server, tmp_path / "w.pt")


def test_a_range_that_was_not_asked_for(server: FileServer, tmp_path: Path) -> None:
    wrong = {"Content-Range": f"bytes 7-9/{len(CONTENT)}"}
    server.acts = [lambda exchange: exchange.status(206, wrong, b"abc")] * 4
    with pytest.raises(EnvironmentNotReady, match="another range"):
        get(server, tmp_path / "w.pt", tuning=ONE)


@pytest.mark.parametrize("code", [401, 403])
def test_no_access_names_the_variable(server: FileServer, tmp_path: Path, code: int) -> None:
    server.always["/w.pt"] = lambda exchange: exchange.status(code)
    with pytest.raises(EnvironmentNotReady, match=f"refuses access.*{code}") as caught:
        get(server, tmp_path / "w.pt")
    assert "set SOME_TOKEN" in caught.value.hint


def test_what_is_not_there(server: FileServer, tmp_path: Path) -> None:
    del server.files["/w.pt"]
    with pytest.raises(EnvironmentNotReady, match=r"has no w\.pt .HTTP 404"):
        get(server, tmp_path / "w.pt")


def test_a_token_reaches_its_host_and_no_other(server: FileServer, tmp_path: Path) -> None:
    with FileServer({"/signed": Served(CONTENT)}) as other:
        onward = {"Location": other.url("/signed")}
        server.always["/w.pt"] = lambda exchange: exchange.status(302, onward)
        secret = {"Authorization": "Bearer hush"}
        assert get(server, tmp_path / "w.pt", headers=secret).sha256 == SHA
        assert {r.headers["Authorization"] for r in server.requests} == {"Bearer hush"}
        assert {r.headers["Authorization"] for r in other.requests} == {None}
        assert not any("hush" in str(r.headers) for r in other.requests)


def test_redirects_that_never_end(server: FileServer, tmp_path: Path) -> None:
    server.always["/w.pt"] = lambda exchange: exchange.status(302, {"Location": "/w.pt"})
    with pytest.raises(EnvironmentNotReady, match="leads nowhere"):
        get(server, tmp_path / "w.pt")


def test_an_expired_address_is_asked_for_again(server: FileServer, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        server.files[f"/signed-{number}"] = Served(CONTENT)
    asked: list[str] = []

    def locate() -> Location:
        asked.append(f"/signed-{len(asked) + 1}")
        return Location(server.url(asked[-1]))

    def expire(exchange: Exchange) -> None:
        server.always[exchange.request.path] = lambda later: later.status(403)
        exchange.send()

    server.acts = [Exchange.send, expire, Exchange.send, expire]
    assert download(locate, tmp_path / "w.pt", tuning=ONE).sha256 == SHA
    assert asked == ["/signed-1", "/signed-2", "/signed-3"]


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/w.pt"
    with pytest.raises(EnvironmentNotReady, match="broke off"):
        download(lambda: Location(url), tmp_path / "w.pt", tuning=FAST)
