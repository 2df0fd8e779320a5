import json
import logging
import re
import time
from collections.abc import Callable

import httpx
import openai
import pytest
from serve_fakes import MODEL, FakeEngine, RunningServer

Start = Callable[..., RunningServer]


def logged(caplog: pytest.LogCaptureFixture, count: int) -> list[str]:
    """The log's lines, which are written after the responses were sent."""
    deadline = time.monotonic() + 10
    while len(caplog.records) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == count, lines
    return lines


def test_v1_asks_for_the_key_when_there_is_one(start: Start) -> None:
    server = start(api_key="secret")
    for wrong in ("Secret", "secret2"):
        with (
            server.client(api_key=wrong) as client,
            pytest.raises(openai.AuthenticationError) as caught,
        ):
            client.models.list()
        assert caught.value.code == "invalid_api_key"
    with server.client(api_key="secret") as client:
        assert client.models.list().data[0].id == MODEL


def test_probes_and_scrapers_need_no_key(start: Start) -> None:
    server = start(api_key="secret")
    for path in ("/health", "/health/live", "/v1/health/ready", "/metrics", "/version"):
        assert httpx.get(server.url + path, trust_env=False).status_code == 200
    response = httpx.get(f"{server.url}/v1/models", trust_env=False)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Bearer secret", 200),
        ("bearer secret", 200),
        ("BEARER secret", 200),
        ("Basic secret", 401),
        ("secret", 401),
        ("Bearer", 401),
    ],
)
def test_the_scheme_is_read_in_any_case(start: Start, authorization: str, status: int) -> None:
    server = start(api_key="secret")
    headers = {"Authorization": authorization}
    response = httpx.get(f"{server.url}/v1/models", headers=headers, trust_env=False)
    assert response.status_code == status


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large(start: Start, engine: FakeEngine, chunked: bool) -> None:
    server = start(max_body_bytes=1000)
    text = b'{"prompt": "' + b"x" * 1000 + b'"}'
    response = httpx.post(
        f"{server.url}/v1/completions",
        content=iter([text[:500], text[500:]]) if chunked else text,
        headers={"Content-Type": "application/json"},
        trust_env=False,
    )
    assert response.status_code == 413
    assert response.json()["error"]["message"] == "The body is over 1000 bytes."
    assert engine.submissions == []


def test_a_body_that_is_far_too_large_gets_its_answer(server: RunningServer) -> None:
    with server.client() as client, pytest.raises(openai.APIStatusError) as caught:
        client.completions.create(model=MODEL, prompt="x" * 50_000_000)
    assert caught.value.status_code == 413


def test_one_line_a_request_and_none_for_probes(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="kit.serve"), server.client() as client:
        client.models.list()
        httpx.get(f"{server.url}/no%0Awhere", trust_env=False)
        httpx.get(f"{server.url}/health/ready", trust_env=False)
        httpx.get(f"{server.url}/metrics", trust_env=False)
        lines = logged(caplog, 2)
    expected = (
        r"127\.0\.0\.1 GET '/v1/models' 200 \d\.\d{3} s [0-9a-f]{32}",
        r"127\.0\.0\.1 GET '/no\\nwhere' 404 \d\.\d{3} s [0-9a-f]{32}: unknown_url",
    )
    assert all(map(re.fullmatch, expected, lines)), lines


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"temperature": 9}, "invalid_value temperature: Input should be less than or equal to 2"),
        ({"foo": 1}, "unknown_parameter foo"),
        ({"my secret": 1}, "unknown_parameter …"),
        ({"tools": [{"secret": 1}]}, "unsupported_parameter tools"),
        (
            {"messages": [{"role": "secret", "content": "secret"}]},
            "invalid_value messages.0.role: ",
        ),
        ({"messages": "secret"}, "invalid_value messages: "),
        ({"model": "secret"}, "model_not_found model"),
        ({"messages": [{"role": "user", "content": "secret" * 999}]}, "context_length_exceeded"),
        (b'{"secret": secret}', "The body is not JSON: "),
        (b'"secret"', "The body must be a JSON object"),
    ],
)
def test_what_is_refused_is_logged_with_its_reason_and_without_its_text(
    server: RunningServer, caplog: pytest.LogCaptureFixture, body: object, reason: str
) -> None:
    if isinstance(body, dict):
        body = json.dumps({"messages": [{"role": "user", "content": "secret"}]} | body).encode()
    headers = {"Content-Type": "application/json", "Authorization": "Bearer secret"}
    url = f"{server.url}/v1/chat/completions?secret"
    with caplog.at_level(logging.INFO, logger="kit.serve"):
        response = httpx.post(url, content=body, headers=headers, trust_env=False)  # type: ignore[arg-type]
        [line] = logged(caplog, 1)
    assert response.status_code in (400, 404)
    assert f": {reason}" in line
    assert "secret" not in line


def test_a_wrong_key_is_not_logged(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    server = start(api_key="right")
    headers = {"Authorization": "Bearer wrong"}
    with caplog.at_level(logging.INFO, logger="kit.serve"):
        httpx.get(f"{server.url}/v1/models", headers=headers, trust_env=False)
        [line] = logged(caplog, 1)
    assert line.endswith(": invalid_api_key")
    assert "wrong" not in line and "right" not in line


def test_a_request_is_named(
    server: RunningServer, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="kit.serve"), server.client() as client:
        given = {"x-request-id": "job-7/3"}
        answer = client.completions.create(model=MODEL, prompt="hi", extra_headers=given)
        assert answer._request_id == "job-7/3"
        with pytest.raises(openai.NotFoundError) as refused:
            client.models.retrieve("other", extra_headers=given)
        assert refused.value.request_id == "job-7/3"
        made = [client.models.list()._request_id for _ in range(2)]
        names = [line.split(" s ")[1].split(":")[0] for line in logged(caplog, 4)]
    assert all(re.fullmatch("[0-9a-f]{32}", name or "") for name in made)
    assert made[0] != made[1]
    assert names == ["job-7/3", "job-7/3", *made]
    engine.submit = None  # type: ignore[assignment, method-assign]
    bug = httpx.post(
        f"{server.url}/v1/completions", json={"prompt": "x"}, headers=given, trust_env=False
    )
    assert (bug.status_code, bug.headers["x-request-id"]) == (500, "job-7/3")


@pytest.mark.parametrize("given", ["", "x" * 129, "two words", "tab\tb", "é".encode("latin-1")])
def test_a_name_that_would_spoil_the_log_is_replaced(
    server: RunningServer, given: str | bytes
) -> None:
    headers = {"x-request-id": given}
    response = httpx.get(f"{server.url}/v1/models", headers=headers, trust_env=False)  # type: ignore[arg-type]
    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])
