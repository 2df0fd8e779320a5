import logging
from collections.abc import Callable

import httpx
import openai
import pytest
from serve_fakes import MODEL, FakeEngine, RunningServer

Start = Callable[..., RunningServer]


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
    lines = [record.getMessage() for record in caplog.records]
    assert [line.rpartition(" ")[0].rpartition(" ")[0] for line in lines] == [
        "127.0.0.1 GET '/v1/models' 200",
        "127.0.0.1 GET '/no\\nwhere' 404",
    ]
