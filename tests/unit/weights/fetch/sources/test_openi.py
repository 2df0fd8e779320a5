"""OpenI, by its newer and older routes."""

import json
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from kit.errors import EnvironmentNotReady
from kit.weights.catalogue import Source
from kit.weights.fetch.download import download
from kit.weights.fetch.fetch import source_offers
from kit.weights.fetch.sources import Offers
from kit.weights.fetch.transfer import Expected
from tests.file_server import Exchange, FileServer, Served
from tests.sources import CHECKPOINT, CONTENT, PATH, SHA, weights


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


def lookup(server: FileServer) -> Offers:
    options = {"endpoint": server.url(), "repository": "iflytek/iFlytekSpark-13B"}
    source = Source("openi", "openi", "", "OPENI_TOKEN", options)
    return source_offers(source, weights({"w.pt": PATH}), {})


@pytest.mark.parametrize(
    "data",
    [
        7,
        [],
        {"modelFileList": 7},
        {"modelFileList": "text", "id": 1},
        {"modelFileList": [7, None, {"FileName": [CHECKPOINT]}], "id": 1},
        {"modelFileList": [{"FileName": CHECKPOINT, "Size": 1}]},
    ],
)
def test_answers_of_other_types(server: FileServer, data: object) -> None:
    reply = json.dumps({"code": 0, "data": data}).encode()
    route = "/api/v1/iflytek/iFlytekSpark-13B/sdk/get_model"
    server.always[route] = lambda exchange: exchange.status(200, {}, reply)
    with pytest.raises(EnvironmentNotReady, match="OpenI has no"):
        lookup(server)


@pytest.mark.parametrize("size", [True, -1, 1 << 80, "big", [1], 1.5, None])
def test_sizes_that_are_none(server: FileServer, size: object) -> None:
    reply = json.dumps({"code": 0, "data": {"ContentLength": size}}).encode()
    server.always["/api/v1/aimodel/file/meta"] = lambda exchange: exchange.status(200, {}, reply)
    assert lookup(server)["w.pt"].expected == Expected(None)
