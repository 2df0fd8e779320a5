"""Clients that send too much, too slowly, or not to the end."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import httpx
import pytest
from serve_fakes import CONTEXT, FakeEngine, RunningServer

from kit.serve.api.bodies import SMALL_BYTES, BodyBudget, require_few_values
from kit.serve.api.errors import ApiError
from kit.serve.server import Connection
from kit.units import MIB

Start = Callable[..., RunningServer]
HELLO = {"messages": [{"role": "user", "content": "hi"}]}


def asks(server: RunningServer, body: object = HELLO) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=20, trust_env=False)


@contextmanager
def unfinished(server: RunningServer, sent: int, announced: int) -> Iterator[socket.socket]:
    """A request whose body does not come to its end."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % announced + b" " * sent
        )
        yield connection


def answer_of(connection: socket.socket) -> tuple[int, dict[str, object]]:
    told = b""
    while more := connection.recv(65536):
        told += more
    head, _, body = told.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


def test_unfinished_bodies_hold_a_bounded_amount_and_keep_nobody_out(server: RunningServer) -> None:
    with ExitStack() as held:
        large = [
            held.enter_context(unfinished(server, 3 * MIB + 900_000, 4 * MIB)) for _ in range(12)
        ]
        refused = [connection for connection in large if has_answer(connection)]
        assert 9 <= len(refused) <= 11
        status, error = answer_of(refused[0])
        assert (status, error["type"]) == (503, "server_error")
        assert "too many large requests" in str(error["message"])
        assert asks(server).status_code == 200
        assert server.ready().status_code == 200
    deadline = time.monotonic() + 20
    big = {"messages": [{"role": "user", "content": "hi", "name": "x" * 3 * MIB}]}
    while asks(server, big).status_code == 503:  # until those that have gone are noticed
        assert time.monotonic() < deadline


def has_answer(connection: socket.socket) -> bool:
    connection.settimeout(2)
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except TimeoutError:
        return False
    finally:
        connection.settimeout(20)


def test_small_bodies_and_large_ones_are_counted_apart() -> None:
    budget = BodyBudget(small_bytes=SMALL_BYTES, large_bytes=100)
    assert budget.take(SMALL_BYTES, 100)
    assert not budget.take(1, 0)
    assert not budget.take(0, 1)
    budget.give(1, 0)
    assert budget.take(1, 0)


def test_a_body_that_does_not_come_in_time(start: Start) -> None:
    server = start(body_seconds=0.2)
    with unfinished(server, 10, 1000) as connection:
        status, error = answer_of(connection)
    assert (status, error["message"]) == (408, "The body of the request did not come in time.")
    assert asks(server).status_code == 200


def test_an_answer_may_take_longer_than_a_body(start: Start, engine: FakeEngine) -> None:
    engine.pause_after = 3
    server = start(body_seconds=0.05)
    with httpx.Client(base_url=server.url, timeout=20, trust_env=False) as http:
        body = HELLO | {"stream": True}
        with http.stream("POST", "/v1/chat/completions", json=body) as response:
            assert engine.paused.wait(10)
            time.sleep(0.3)
            engine.go_on()
            assert "[DONE]" in response.read().decode()


def test_a_length_that_is_announced_is_refused_before_it_is_read(server: RunningServer) -> None:
    with unfinished(server, 0, 5 * MIB) as connection:
        connection.settimeout(10)
        assert connection.recv(12) == b"HTTP/1.1 413"


@pytest.mark.parametrize("sent", [b"", b"GET /health/live HTTP/1.1\r\nX-Slow: "])
def test_headers_that_do_not_come_in_time(
    start: Start, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(Connection, "header_seconds", 0.3)
    server = start()
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(sent)
        assert connection.recv(1) == b""
    with httpx.Client(base_url=server.url, timeout=20, trust_env=False) as http:
        assert http.get("/health/live").status_code == 200
        time.sleep(0.5)
        assert http.get("/health/live").status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "x" * (6 * CONTEXT + 1)}]},
        {"messages": [{"role": "user", "content": "x" * 3 * CONTEXT}] * 3},
        {"messages": [{"role": "user", "content": ""}] * (CONTEXT + 1)},
    ],
)
def test_what_cannot_fit_is_refused_before_it_is_tokenised(
    server: RunningServer, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, body: object
) -> None:
    monkeypatch.setattr(engine.tokenizer, "apply_chat_template", lambda *_, **__: 1 / 0)
    response = asks(server, body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")


def test_a_prompt_that_cannot_fit(server: RunningServer, engine: FakeEngine) -> None:
    body = {"prompt": ["fits", "x" * (6 * CONTEXT + 1)]}
    response = httpx.post(f"{server.url}/v1/completions", json=body, trust_env=False)
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert engine.submissions == []


@pytest.mark.parametrize(
    "value", ["{}", "[]", '{"role":"user"}', '"}{",[[]]', '"\\\\",{},[]', '"\\"",{},[]']
)
def test_more_objects_than_messages_can_be_are_counted_before_they_are_made(value: str) -> None:
    context = 100
    least = 3 * context + 1000
    with pytest.raises(ApiError, match="more than any request"):
        require_few_values(f"[{','.join([value] * (least + 1))}]".encode(), context)


def test_more_numbers_than_prompts_can_have_are_counted_before_they_are_made() -> None:
    with pytest.raises(ApiError, match="more than any request"):
        require_few_values(b"[" + b"7," * (64 * 100 + 1001) + b"7]", 100)


@pytest.mark.parametrize("text", ["{[,", '\\"{', "\\\\", '\\\\\\"[,'])
def test_what_stands_in_a_text_is_not_counted(text: str) -> None:
    require_few_values(f'{{"prompt": "{text * 100_000}"}}'.encode(), 100)


def test_a_body_of_too_many_objects_is_refused_by_both_routes(server: RunningServer) -> None:
    body = b'{"messages": [' + b"{}," * 30_000 + b"{}]}"
    for route in ("chat/completions", "completions"):
        answer = httpx.post(
            f"{server.url}/v1/{route}",
            content=body,
            headers={"Content-Type": "application/json"},
            timeout=20,
            trust_env=False,
        )
        assert answer.status_code == 400
        assert "30003 lists and objects" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"prompt": "\xff\xfe"}', "it is not UTF-8 at byte 12"),
        (b'{"max_tokens": ' + b"9" * 5000 + b"}", "a number has too many digits"),
        (b'{"prompt": ' + b"[" * 50_000 + b"}", "it is nested too deeply"),
    ],
    ids=["bytes", "digits", "depth"],
)
def test_a_body_that_cannot_be_read_is_told_why(
    server: RunningServer, body: bytes, reason: str
) -> None:
    headers = {"Content-Type": "application/json"}
    url = f"{server.url}/v1/completions"
    answer = httpx.post(url, content=body, headers=headers, timeout=20, trust_env=False)
    message = f"The body cannot be read: {reason}."
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, message)
