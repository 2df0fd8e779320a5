import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from kit.errors import EnvironmentNotReady, IntegrityError, UsageError
from kit.weights import ask
from kit.weights.catalogue import Source, WeightSet, read_catalogue
from kit.weights.download import download
from kit.weights.sources import Offers
from kit.weights.sources.https import MIRROR_TOKEN, local_path
from kit.weights.sources.lfs import Pointer, parse_pointer
from kit.weights.sources.resolve import authorization, mirror_offers, source_offers
from kit.weights.transfer import Expected
from tests.file_server import Exchange, FileServer, Served

CONTENT = os.urandom(5000)
SHA = hashlib.sha256(CONTENT).hexdigest()
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{SHA}\nsize 5000\n".encode()
WEIGHTS = read_catalogue().weights["spark-13b-chat"]
CHECKPOINT = "mp_rank_00_model_states.pt"
PATH = "iFlytekSpark_13B_chat_fp32/mp_rank_00_model_states.pt"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "PAUSES_S", (0.001,))


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as running:
        yield running


def weights(files: dict[str, str]) -> WeightSet:
    return WeightSet("tiny", "", files, ("s",), WEIGHTS.licence, None, None, 0)


# --- git LFS


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


# --- OpenI


def openi(server: FileServer, known: dict[str, bytes], *, old: bool) -> Offers:
    """OpenI as its own client speaks to it; ``known`` is content by route and file name."""

    def answer(exchange: Exchange) -> None:
        route, query = exchange.request.path.partition("?")[::2]
        asked = {key: value[0] for key, value in parse_qs(query).items()}
        key = f"{asked.get('aimodel_name')} {asked.get('file_name')}"
        reply: dict[str, object] = {"code": 9004, "msg": "not found"}
        if route.endswith("/meta") and key in known:
            reply = {"code": 0, "msg": "ok", "data": {"ContentLength": len(known[key])}}
        elif route.endswith("/sdk/get_model") and old:
            files = [{"FileName": CHECKPOINT, "Size": len(CONTENT), "IsDir": False}]
            reply = {"code": 0, "data": {"id": "77", "modelFileList": files}}
        elif route == "/api/v1/aimodel/file":
            signed = {"Location": server.url(f"/signed?key={key.replace(' ', '+')}")}
            exchange.status(301, signed)
            return
        exchange.status(200, {"Content-Type": "application/json"}, json.dumps(reply).encode())

    for route in ("/aimodel/file/meta", "/aimodel/file", "/iflytek/iFlytekSpark-13B/sdk/get_model"):
        server.always[f"/api/v1{route}"] = answer
    options = {"endpoint": server.url(), "repository": "iflytek/iFlytekSpark-13B"}
    source = Source("openi", "openi", "", "OPENI_TOKEN", options)
    return source_offers(source, weights({"w.pt": PATH}), {"OPENI_TOKEN": "hush"})


MODEL = "iFlytekSpark_13B_chat_fp32"


@pytest.mark.parametrize(
    "key", [f"iflytek/iFlytekSpark-13B {PATH}", f"iflytek/{MODEL} {CHECKPOINT}"]
)
def test_openi_files(server: FileServer, tmp_path: Path, key: str) -> None:
    offer = openi(server, {key: CONTENT}, old=False)["w.pt"]
    assert (offer.basis, offer.expected) == ("observed", Expected(5000))
    server.files = {f"/signed?key={key.replace(' ', '+')}": Served(CONTENT)}
    assert download(offer.locate, tmp_path / "w.pt", offer.expected).sha256 == SHA
    assert server.requests[0].headers["Authorization"] == "Bearer hush"


def test_openi_by_its_older_routes(server: FileServer, tmp_path: Path) -> None:
    offer = openi(server, {}, old=True)["w.pt"]
    assert offer.expected == Expected(5000)
    route = "/api/v1/iflytek/iFlytekSpark-13B/sdk/download_model_file/77"
    server.files = {f"{route}?fileName={CHECKPOINT}": Served(CONTENT)}
    assert download(offer.locate, tmp_path / "w.pt", offer.expected).sha256 == SHA


def test_openi_does_not_know_it(server: FileServer) -> None:
    with pytest.raises(EnvironmentNotReady, match="OpenI has no") as caught:
        openi(server, {}, old=False)
    assert "OPENI_TOKEN" in caught.value.hint


def test_a_login_page_instead_of_json(server: FileServer) -> None:
    source = Source("openi", "openi", "", None, {"endpoint": server.url(), "repository": "a/b"})
    server.always["/api/v1/aimodel/file/meta"] = lambda e: e.status(200, {}, b"<html>login</html>")
    with pytest.raises(EnvironmentNotReady, match="not JSON"):
        source_offers(source, weights({"w.pt": "m/w.pt"}), {})


# --- plain https and mirrors


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


def test_a_server_that_is_out_of_order(server: FileServer) -> None:
    server.files = {"/raw/a/w.pt": Served(POINTER)}
    server.acts = [lambda exchange: exchange.status(503)]
    assert lfs_offers(server)["w.pt"].basis == "pointer"
    server.always["/raw/a/w.pt"] = lambda exchange: exchange.status(503)
    with pytest.raises(EnvironmentNotReady, match=r"cannot read from 127\.0\.0\.1.*HTTP 503"):
        lfs_offers(server)
