"""HTTP as clients, browsers and proxies expect it."""

import json
import logging
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx
import pytest
from serve_fakes import MODEL, FakeEngine, RunningServer, source

from kit.runtime.client import base_url
from kit.serve.api import sse
from kit.serve.api.app import AppOptions
from kit.serve.api.middleware import own_hosts
from kit.serve.server import ServerOptions

Start = Callable[..., RunningServer]
GET_ROUTES = (
    "/health",
    "/health/live",
    "/health/ready",
    "/metrics",
    "/openapi.json",
    "/v1/health/live",
    "/v1/health/ready",
    "/v1/models",
    f"/v1/models/{MODEL}",
    "/version",
)


def test_head_is_get_without_a_body(http: httpx.Client) -> None:
    described = http.get("/openapi.json").json()["paths"]
    known = {
        path.replace("{name}", MODEL) for path, methods in described.items() if "get" in methods
    }
    assert known <= set(GET_ROUTES)
    for path in GET_ROUTES:
        got, head = http.get(path), http.head(path)
        assert (got.status_code, head.status_code, head.content) == (200, 200, b""), path
        assert head.headers["content-type"] == got.headers["content-type"]
    assert http.head("/v1/completions").status_code == 405
    assert http.post("/metrics").status_code == 405


def test_a_slash_at_the_end_means_nothing(start: Start) -> None:
    server = start(api_key="k")
    with httpx.Client(base_url=server.url, trust_env=False) as http:
        assert http.get("/v1/models/").status_code == 401
        http.headers["Authorization"] = "Bearer k"
        for path in GET_ROUTES:
            assert http.get(f"{path}/").status_code == 200, path
        assert http.get("/v1/models/").json()["object"] == "list"
        assert http.post("/v1/completions/", json={"prompt": "hi"}).status_code == 200
        assert http.get("/").status_code == 404


PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}
PAGE = "http://localhost:3000"


def test_web_pages_are_kept_out_by_default(http: httpx.Client) -> None:
    headers = {"Origin": PAGE}
    assert http.options("/v1/chat/completions", headers=headers | PREFLIGHT).status_code == 405
    assert "access-control-allow-origin" not in http.get("/v1/models", headers=headers).headers


def test_web_pages_that_are_named_may_come(start: Start) -> None:
    server = start(allow_origins=(PAGE,), api_key="k")
    with httpx.Client(base_url=server.url, trust_env=False) as http:
        asked = http.options("/v1/chat/completions", headers={"Origin": PAGE} | PREFLIGHT)
        assert asked.status_code == 200  # a preflight carries no key
        assert asked.headers["access-control-allow-origin"] == PAGE
        assert "authorization" in asked.headers["access-control-allow-headers"]
        other = http.options("/v1/models", headers={"Origin": "http://evil.example"} | PREFLIGHT)
        assert other.status_code == 400
        assert "access-control-allow-origin" not in other.headers
        for key, status in (("k", 200), ("wrong", 401)):
            headers = {"Origin": PAGE, "Authorization": f"Bearer {key}"}
            told = http.get("/v1/models", headers=headers)
            assert (told.status_code, told.headers["access-control-allow-origin"]) == (status, PAGE)


def test_any_web_page(start: Start) -> None:
    server = start(allow_origins=("*",))
    told = httpx.get(f"{server.url}/v1/models", headers={"Origin": PAGE}, trust_env=False)
    assert told.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("LocalHost:1234", 200),
        ("app.localhost", 200),
        ("[::1]:8000", 200),
        ("192.0.2.7", 200),
        ("chat.example.org:443", 200),
        ("a.b.example.com.", 200),
        ("example.com", 400),
        ("evil.example", 400),
        ("evil.example:8000", 400),
        ("127.0.0.1.evil.example", 400),
        ("localhost.evil.example", 400),
        ("notlocalhost", 400),
        ("", 400),
        ("localhost:80:90", 400),
        ("localhost:65535", 200),
        ("localhost:99999", 400),
        ("localhost:1234567", 400),
    ],
)
def test_names_that_a_server_on_loopback_is_asked_by(start: Start, host: str, status: int) -> None:
    names = own_hosts("127.0.0.1", ("chat.example.org", "*.example.com"))
    server = start(allow_hosts=names)
    told = httpx.get(f"{server.url}/v1/models", headers={"Host": host}, trust_env=False)
    assert told.status_code == status
    if status == 400:
        assert told.json()["error"]["code"] == "host_not_allowed"
        assert "KIT_ALLOW_HOSTS" in told.json()["error"]["message"]
        assert told.headers["x-request-id"]


@pytest.mark.parametrize("encoding", ["gzip", "br", "gzip, identity"])
def test_an_encoded_body_is_refused_by_name(http: httpx.Client, encoding: str) -> None:
    told = http.post("/v1/completions", content=b"\x1f\x8b", headers={"Content-Encoding": encoding})
    assert told.status_code == 415
    assert told.json()["error"]["code"] == "unsupported_content_encoding"
    assert told.headers["accept-encoding"] == "identity"


def ask_raw(server: RunningServer, request: str) -> tuple[bytes, bytes]:
    """Head and body of what comes back until the server closes."""
    address = urlsplit(server.url)
    answer = b""
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(request.encode())
        while part := connection.recv(65536):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://localhost/v1/models", b" 200 "),
        ("HTTP://LOCALHOST:80/v1/models/", b" 200 "),
        ("http://evil.example/v1/models", b" 400 "),
        ("http://localhost", b" 404 "),
    ],
)
def test_targets_as_proxies_are_asked(start: Start, target: str, status: bytes) -> None:
    server = start(allow_hosts=own_hosts("127.0.0.1", ()))
    asked = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    head, _ = ask_raw(server, asked)
    assert status in head.splitlines()[0]


@pytest.mark.parametrize("request_", ["GET\r\n\r\n", f"GET / HTTP/1.1\r\nA: {'x' * 100_000}\r\n"])
def test_what_is_no_request_gets_json_too(start: Start, request_: str) -> None:
    head, body = ask_raw(start(), request_)
    assert b" 400 " in head.splitlines()[0]
    assert b"application/json" in head
    assert json.loads(body)["error"]["code"] == "invalid_http"


@pytest.mark.parametrize(
    ("host", "status"), [("server:8000", 200), ("localhost", 200), ("evil.example", 400), ("", 400)]
)
def test_names_that_a_container_is_asked_by(start: Start, host: str, status: int) -> None:
    server = start(allow_hosts=own_hosts("0.0.0.0", (), published="127.0.0.1"))  # noqa: S104
    told = httpx.get(f"{server.url}/v1/models", headers={"Host": host}, trust_env=False)
    assert told.status_code == status


def test_a_client_too_old_to_name_a_host(start: Start) -> None:
    server = start(allow_hosts=own_hosts("127.0.0.1", ()))
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(b"GET /health/live HTTP/1.0\r\n\r\n")
        assert b" 200 " in connection.recv(100)


def test_hosts_are_looked_at_on_loopback_or_where_some_are_named() -> None:
    for bound in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        assert {"localhost", bound} <= (own_hosts(bound, ()) or set())
    for bound in ("0.0.0.0", "::", "192.0.2.1", "gpu.example.org"):  # noqa: S104
        assert own_hosts(bound, ()) is None
        assert own_hosts(bound, ("chat.example.org",)) == {
            "localhost",
            "*.localhost",
            bound,
            "chat.example.org",
        }


@pytest.mark.parametrize("quiet", ["before the first token", "between two tokens"])
def test_a_stream_that_is_silent_shows_that_it_lives(
    start: Start, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, quiet: str
) -> None:
    monkeypatch.setattr(sse, "PING_SECONDS", 0.05)
    engine.pause_after = 0 if quiet.startswith("before") else 3
    server = start()
    body = {"prompt": "hi", "stream": True}
    url = f"{server.url}/v1/completions"
    with httpx.stream("POST", url, json=body, timeout=20, trust_env=False) as response:
        lines: list[str] = []
        for line in response.iter_lines():
            lines.append(line)
            if lines.count(": ping") == 3:
                engine.go_on()
    assert lines[-2] == "data: [DONE]"
    assert sum(line.startswith("data: {") for line in lines) == len("Hello, 世界!") + 1
    with server.client() as client:  # to which a comment is nothing
        engine.pause_after = None
        chunks = client.completions.create(model=MODEL, prompt="hi", stream=True)
        assert "".join(chunk.choices[0].text for chunk in chunks) == "Hello, 世界!"


def test_a_client_that_goes_in_the_silence_is_noticed(
    start: Start, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "PING_SECONDS", 0.05)
    engine.pause_after = 0
    server = start()
    body = {"prompt": "hi", "stream": True}
    url = f"{server.url}/v1/completions"
    with httpx.stream("POST", url, json=body, timeout=20, trust_env=False) as response:
        assert next(response.iter_lines()) == ": ping"
    assert engine.submissions[0].cancelled.wait(10)


def test_an_idle_connection_stays_open_as_long_as_is_set(engine: FakeEngine) -> None:
    server = RunningServer(source(engine), ServerOptions(port=0, keep_alive_seconds=1))
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        while b"alive" not in connection.recv(1000):
            pass
        assert connection.recv(1) == b""  # it is the server that ends it
    server.end()
    assert ServerOptions().keep_alive_seconds == 75


def test_a_server_on_an_ipv6_address(engine: FakeEngine, caplog: pytest.LogCaptureFixture) -> None:
    names = own_hosts("::1", ())
    options = ServerOptions(host="::1", port=0, app=AppOptions(allow_hosts=names))
    with caplog.at_level(logging.INFO, logger="kit.serve"):
        server = RunningServer(source(engine), options)
        server.url = base_url("::1", urlsplit(server.url).port or 0)
        assert server.url.startswith("http://[::1]:")
        server.wait_until_ready()
        with server.client() as client:
            assert client.models.list().data[0].id == MODEL
        server.end()
    assert any(f"{server.url}/health/ready" in record.getMessage() for record in caplog.records)
