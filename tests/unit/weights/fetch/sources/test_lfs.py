"""git LFS: pointers, and what a server makes of them."""

import json
import subprocess
from pathlib import Path

import pytest

from kit.errors import EnvironmentNotReady, IntegrityError
from kit.weights.catalogue import Source
from kit.weights.fetch.download import download
from kit.weights.fetch.fetch import authorization, source_offers
from kit.weights.fetch.sources import Offers
from kit.weights.fetch.sources.lfs import Pointer, parse_pointer
from kit.weights.fetch.transfer import Expected
from tests.file_server import Exchange, FileServer, Served
from tests.sources import CONTENT, POINTER, SHA, weights


def test_pointers() -> None:
    assert parse_pointer(POINTER) == Pointer(SHA, 5000)
    assert parse_pointer(POINTER.replace(b"oid", b"ext-0-foo sha256:1\noid")) == Pointer(SHA, 5000)
    for other in (b"", b"x", POINTER + b"more", POINTER[:-20], POINTER.replace(b"v1", b"v2")):
        assert parse_pointer(other) is None


def lfs_source(server: FileServer, repository: str = "file:///nowhere") -> Source:
    raw, lfs = server.url("/raw"), server.url("/repo.git/info/lfs")
    options = {"repository": repository, "revision": "main", "raw": raw, "lfs": lfs}
    return Source("s", "lfs", "", "LFS_TOKEN", options)


BATCH = "/repo.git/info/lfs/objects/batch"


def lfs_batch(exchange: Exchange) -> None:
    """Answers as https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md says."""
    question = json.loads(exchange.request.body)
    assert question["operation"] == "download"
    assert exchange.request.headers["Accept"] == "application/vnd.git-lfs+json"
    assert exchange.request.headers["Content-Type"] == "application/vnd.git-lfs+json"
    objects = [
        wanted
        | {
            "actions": {
                "download": {
                    "href": exchange.server.url(f"/objects/{wanted['oid']}"),
                    "header": {"Authorization": "RemoteAuth signed"},
                    "expires_in": 900,
                }
            }
        }
        for wanted in question["objects"]
    ]
    answer = json.dumps({"transfer": "basic", "objects": objects}).encode()
    exchange.status(200, {"Content-Type": "application/vnd.git-lfs+json"}, answer)


def lfs_offers(server: FileServer, environ: dict[str, str] | None = None) -> Offers:
    return source_offers(lfs_source(server), weights({"w.pt": "a/w.pt"}), environ or {})


def test_an_lfs_file_arrives_by_its_pointer(server: FileServer, tmp_path: Path) -> None:
    server.files = {"/raw/a/w.pt": Served(POINTER), f"/objects/{SHA}": Served(CONTENT)}
    server.always[BATCH] = lfs_batch
    offer = lfs_offers(server)["w.pt"]
    assert offer.expected == Expected(5000, SHA)
    assert offer.basis == "pointer"
    assert offer.origin == server.url("/raw/a/w.pt")
    download(offer.locate, tmp_path / "w.pt", offer.expected)
    assert (tmp_path / "w.pt").read_bytes() == CONTENT
    read = [r for r in server.requests if r.path.startswith("/objects/")]
    assert {r.headers["Authorization"] for r in read} == {"RemoteAuth signed"}


def test_content_that_is_not_what_the_pointer_says(server: FileServer, tmp_path: Path) -> None:
    server.files = {"/raw/a/w.pt": Served(POINTER), f"/objects/{SHA}": Served(bytes(5000))}
    server.always[BATCH] = lfs_batch
    offer = lfs_offers(server)["w.pt"]
    with pytest.raises(IntegrityError, match=f"{SHA} is expected"):
        download(offer.locate, tmp_path / "w.pt", offer.expected)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ({"objects": [{"oid": SHA, "error": {"code": 404, "message": "gone"}}]}, None, "gone .404"),
        ({"objects": [{"oid": SHA, "size": 1, "actions": {}}]}, IntegrityError, "has 1 bytes"),
        ({"objects": [{"oid": "0" * 64}]}, None, "not answer as a git LFS server"),
        ({"objects": [{"oid": SHA, "size": 5000}]}, None, "not answer as a git LFS server"),
        ({"message": "x"}, None, "not answer as a git LFS server"),
        ([], None, "not answer as a git LFS server"),
    ],
)
def test_batch_answers_that_help_nobody(
    server: FileServer, answer: object, error: type[Exception] | None, message: str
) -> None:
    server.files = {"/raw/a/w.pt": Served(POINTER)}
    server.always[BATCH] = lambda exchange: exchange.status(200, {}, json.dumps(answer).encode())
    with pytest.raises(error or EnvironmentNotReady, match=message):
        lfs_offers(server)["w.pt"].locate()


def test_a_token_is_sent_to_the_repository(server: FileServer) -> None:
    def private(exchange: Exchange) -> None:
        if exchange.request.headers["Authorization"] == "Bearer hush":
            exchange.send()
        else:
            exchange.status(401)

    server.files = {"/raw/a/w.pt": Served(POINTER)}
    server.always["/raw/a/w.pt"] = private
    with pytest.raises(EnvironmentNotReady, match=r"refuses access to a/w\.pt") as caught:
        lfs_offers(server)
    assert "set LFS_TOKEN" in caught.value.hint
    offer = lfs_offers(server, {"LFS_TOKEN": "hush"})["w.pt"]
    server.always[BATCH] = lfs_batch
    assert offer.locate().url.endswith(SHA)
    assert server.requests[-1].headers["Authorization"] == "Bearer hush"
    server.always[BATCH] = lambda exchange: exchange.status(403)
    with pytest.raises(EnvironmentNotReady, match="refuses access"):
        offer.locate()


def test_tokens() -> None:
    assert authorization("") == {}
    assert authorization("abc") == {"Authorization": "Bearer abc"}
    assert authorization("me:pw") == {"Authorization": "Basic bWU6cHc="}


def test_a_file_of_the_repository_itself(server: FileServer, tmp_path: Path) -> None:
    server.files = {"/raw/a/w.pt": Served(CONTENT)}
    offer = lfs_offers(server)["w.pt"]
    assert (offer.basis, offer.expected) == ("observed", Expected())
    assert download(offer.locate, tmp_path / "w.pt", offer.expected).sha256 == SHA


@pytest.mark.parametrize("raw", [Served(CONTENT), None])
def test_a_pointer_that_the_server_hides_is_read_with_git(
    server: FileServer, tmp_path: Path, raw: Served | None
) -> None:
    repository = tmp_path / "repository"
    (repository / "a").mkdir(parents=True)
    (repository / "a" / "w.pt").write_bytes(POINTER)
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run(["git", *identity, *command], cwd=repository, check=True)
    server.files = {"/raw/a/w.pt": raw} if raw else {}
    source = lfs_source(server, repository.as_uri())
    offer = source_offers(source, weights({"w.pt": "a/w.pt"}), {})["w.pt"]
    assert (offer.basis, offer.expected) == ("pointer", Expected(5000, SHA))


def test_neither_server_nor_git_have_it(server: FileServer) -> None:
    with pytest.raises(EnvironmentNotReady, match=r"has no a/w\.pt .HTTP 404"):
        lfs_offers(server)


def test_a_server_that_is_out_of_order(server: FileServer) -> None:
    server.files = {"/raw/a/w.pt": Served(POINTER)}
    server.acts = [lambda exchange: exchange.status(503)]
    assert lfs_offers(server)["w.pt"].basis == "pointer"
    server.always["/raw/a/w.pt"] = lambda exchange: exchange.status(503)
    with pytest.raises(EnvironmentNotReady, match=r"cannot read from 127\.0\.0\.1.*HTTP 503"):
        lfs_offers(server)
