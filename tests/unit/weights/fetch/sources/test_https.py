"""Plain https, mirrors and folders."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from kit.errors import EnvironmentNotReady, UsageError
from kit.weights.catalogue import Source, read_catalogue
from kit.weights.fetch.download import download
from kit.weights.fetch.fetch import mirror_offers, source_offers
from kit.weights.fetch.sources.https import MIRROR_TOKEN, local_path
from kit.weights.fetch.transfer import Expected
from tests.file_server import Exchange, FileServer, Served
from tests.sources import CONTENT, POINTER, SHA, weights


@pytest.mark.parametrize("layout", ["tiny/f/w.pt", "there/w.pt", "f/w.pt"])
def test_a_mirror_may_be_laid_out_in_three_ways(
    server: FileServer, tmp_path: Path, layout: str
) -> None:
    wanted = weights({"f/w.pt": "there/w.pt"})
    server.files = {f"/m/{layout}": Served(CONTENT)}
    offer = mirror_offers(server.url("/m/"), wanted, {MIRROR_TOKEN: "hush"})["f/w.pt"]
    assert download(offer.locate, tmp_path / "w").sha256 == SHA
    assert {r.headers["Authorization"] for r in server.requests} == {"Bearer hush"}
    folder = tmp_path / "with space" / layout
    folder.parent.mkdir(parents=True)
    folder.write_bytes(CONTENT)
    offer = mirror_offers((tmp_path / "with space").as_uri(), wanted, {})["f/w.pt"]
    assert local_path(offer.origin) == folder
    assert offer.expected == Expected(5000)


def test_a_mirror_without_the_set(server: FileServer, tmp_path: Path) -> None:
    wanted = weights({"w.pt": "there/w.pt"})
    page = Served(b"<html>welcome")
    server.files = {f"/m/{path}": page for path in ("tiny/w.pt", "there/w.pt", "w.pt")}
    for base in (server.url("/m"), server.url("/n"), tmp_path.as_uri()):
        with pytest.raises(EnvironmentNotReady, match=r"has no w\.pt of tiny"):
            mirror_offers(base, wanted, {})
    server.always["/m/tiny/w.pt"] = lambda exchange: exchange.status(403)
    with pytest.raises(EnvironmentNotReady, match=r"refuses access .HTTP 403") as caught:
        mirror_offers(server.url("/m"), wanted, {})
    assert MIRROR_TOKEN in caught.value.hint


def test_a_layout_counts_only_when_all_of_its_files_are_there(server: FileServer) -> None:
    wanted = weights({"w.pt": "there/w.pt", "T/t.model": "T/t.model"})
    server.files = {"/m/tiny/w.pt": Served(CONTENT)}
    with pytest.raises(EnvironmentNotReady, match=r"has no T/t\.model of tiny") as caught:
        mirror_offers(server.url("/m"), wanted, {})
    assert server.url("/m/tiny/T/t.model is not there (HTTP 404)") in caught.value.message
    assert "w.pt" not in caught.value.message
    server.files |= {"/m/there/w.pt": Served(CONTENT), "/m/T/t.model": Served(b"token")}
    server.always["/m/tiny/T/t.model"] = lambda exchange: exchange.status(403)
    server.sent_bytes = 0
    offers = mirror_offers(server.url("/m"), wanted, {})
    assert offers["w.pt"].origin == server.url("/m/there/w.pt")
    assert [offer.expected for offer in offers.values()] == [Expected(5000), Expected(5)]
    assert server.sent_bytes < 3 * 512


@pytest.mark.parametrize(
    ("there", "problem"),
    [
        (Served(b" <!DOCTYPE HTML>"), "is a web page"),
        (Served(b"Not found", content_type="text/html; charset=utf-8"), "is a web page"),
        (Served(POINTER), "is only the git LFS pointer"),
        (Served(b""), "is empty"),
        (Served(b"", ranges=False), "is empty"),
    ],
)
def test_what_is_no_file_of_weights(
    server: FileServer, tmp_path: Path, there: Served, problem: str
) -> None:
    wanted = weights({"w.pt": "w.pt", "t.model": "t.model"})
    server.files = {"/m/w.pt": Served(CONTENT), "/m/t.model": there}
    with pytest.raises(EnvironmentNotReady, match=rf"has no t\.model(?s:.*){problem}"):
        mirror_offers(server.url("/m"), wanted, {})
    source = Source("s", "https", "", "OWN_TOKEN", {"base": server.url("/m")})
    with pytest.raises(EnvironmentNotReady, match=rf"has no t\.model(?s:.*){problem}") as caught:
        source_offers(source, wanted, {})
    assert "OWN_TOKEN" in caught.value.hint
    if not there.content_type.startswith("text/html"):  # a folder does not say so
        (tmp_path / "w.pt").write_bytes(CONTENT)
        (tmp_path / "t.model").write_bytes(there.content)
        with pytest.raises(EnvironmentNotReady, match=rf"has no t\.model(?s:.*){problem}"):
            mirror_offers(tmp_path.as_uri(), wanted, {})


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_that_does_not_tell_sizes(server: FileServer, ranges: bool) -> None:
    def chunked(exchange: Exchange) -> None:
        handler = exchange.handler
        handler.send_response(206 if ranges else 200)
        if ranges:
            handler.send_header("Content-Range", "bytes 0-511/*")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"200\r\n" + CONTENT[:512] + b"\r\n0\r\n\r\n")

    server.always["/m/w.pt"] = chunked
    offers = mirror_offers(server.url("/m"), weights({"w.pt": "w.pt"}), {})
    assert offers["w.pt"].expected == Expected(None)


@pytest.mark.parametrize(
    "base", ["http://example.org/x", "ftp://example.org", "/srv/weights", "https://", "file://a/b"]
)
def test_addresses_that_are_no_mirror(base: str) -> None:
    with pytest.raises(UsageError, match="a mirror is named by"):
        mirror_offers(base, weights({"w.pt": "w.pt"}), {})


def test_the_obs_bucket(server: FileServer) -> None:
    catalogue = read_catalogue()
    wanted = catalogue.weights["spark-13b-base-ms-bf16"]
    obs = catalogue.sources["obs"]
    base = urlsplit(obs.options["base"])
    assert base.hostname == "ascend-repo-modelzoo.obs.cn-east-2.myhuaweicloud.com"
    here = Source("obs", obs.kind, "", obs.token_variable, {"base": server.url(base.path)})
    folder = "/MindFormers/iflytekspark"
    server.files = {
        f"{folder}/iflytekspark_13b_base_bf16.ckpt": Served(CONTENT),
        f"{folder}/tokenizer.model": Served(b"model"),
        f"{folder}/tokenizer.vocab": Served(b"vocab"),
    }
    found = source_offers(here, wanted, {})
    assert found.keys() == wanted.files.keys()
    assert found["iflytekspark_13b_base_bf16.ckpt"].expected == Expected(5000)
