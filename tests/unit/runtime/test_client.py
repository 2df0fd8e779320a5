import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kit.errors import ServiceError
from kit.runtime.client import Client, Failed, Loading, Ready, Silent, TooSlow, base_url

READY = {
    "status": "ready",
    "model": "spark",
    "engine": "native",
    "dtype": "bfloat16",
    "device": "cuda:0",
    "context_length": 4096,
    "max_sequences": 1,
    "load_seconds": 8.5,
    "memory": {"host_peak_bytes": 1, "device_peak_bytes": 29},
}


@pytest.fixture
def serve():
    """``serve(status, body)``: URL of a server that gives this reply to everything."""
    servers = []

    def start(status, body):
        class Handler(BaseHTTPRequestHandler):
            def reply(self):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

            do_GET = do_POST = reply  # noqa: N815

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, READY, Ready("spark", "bfloat16", "cuda:0", 4096, 1, 8.5, 29, 1)),
        (
            503,
            {"status": "loading", "phase": "weights", "progress": 0.41},
            Loading("weights", 0.41),
        ),
        (503, {"status": "stopping"}, Loading("stopping", 0.0)),
        (503, {"status": "failed", "error": "e", "hint": "h"}, Failed("e", "h")),
        (200, b"<html>", Silent("another program answers on this port", refused=False)),
        (404, {"detail": "Not Found"}, Silent("another program answers on this port", False)),
        (200, [], Silent("another program answers on this port", False)),
    ],
)
def test_health(serve, status, body, expected):
    assert Client(serve(status, body)).health() == expected


def test_nobody_listens():
    reply = Client("http://127.0.0.1:9").health()
    assert isinstance(reply, Silent)
    assert reply.refused


def test_answer(serve):
    url = serve(200, {"choices": [{"message": {"content": "hello"}}]})
    assert Client(url).ask("spark", "hi", max_tokens=5, timeout_seconds=5) == "hello"


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (500, {"error": {"message": "engine died"}}, "status 500: .*engine died"),
        (200, {"choices": []}, "not an OpenAI-style reply"),
        (200, b"?", "not an OpenAI-style reply"),
    ],
)
def test_no_answer(serve, status, body, reason):
    with pytest.raises(ServiceError, match=reason):
        Client(serve(status, body)).ask("spark", "hi", max_tokens=5, timeout_seconds=5)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),  # noqa: S104
        ("::", "http://[::1]:8000"),
        ("10.0.0.5", "http://10.0.0.5:8000"),
    ],
)
def test_base_url(host, expected):
    assert base_url(host, 8000) == expected


def chunks(tokens):
    """Of two tokens each, then the usage."""
    texts = [{"choices": [{"text": "ab"}]} for _ in range(tokens // 2)]
    events = [*texts, {"choices": [], "usage": {"completion_tokens": tokens}}]
    return b"".join(b"data: %s\n\n" % json.dumps(e).encode() for e in events) + b"data: [DONE]\n"


def generate(url, tokens):
    return list(Client(url).generate("spark", [7, 11], tokens, timeout_seconds=5))


def test_generation_that_ends_as_it_should(serve):
    assert len(generate(serve(200, chunks(4)), 4)) == 3


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, chunks(2), "ended after 2 of 3 tokens"),
        (200, {"choices": []}, "ended after 0 of 3 tokens"),
        (200, b'event: error\ndata: {"error": {"message": "lost"}}\n\n', "lost"),
        (503, {"error": "full"}, "status 503"),
    ],
)
def test_generation_that_fails(serve, status, body, reason):
    with pytest.raises(ServiceError, match=reason):
        generate(serve(status, body), 3)


def test_signs_of_life_are_no_tokens(serve):
    """The server's pings, which end no wait for the next token."""
    alive = b": ping\n\n" * 3 + chunks(4)
    assert len(generate(serve(200, alive), 4)) == 3
    with pytest.raises(TooSlow, match="no token came for 0 s"):
        list(Client(serve(200, alive)).generate("spark", [7], 4, timeout_seconds=1e-9))


def test_version(serve):
    assert Client(serve(200, {"torch": "2.13"})).version() == {"torch": "2.13"}
    assert Client(serve(500, {})).version() == {}
