"""Liveness and readiness, from the first moment of loading to the engine's death."""

from collections.abc import Callable

import httpx
import pytest
from serve_fakes import CONTEXT, MODEL, FakeEngine, RunningServer

from kit.errors import EnvironmentNotReady, ServiceError

Start = Callable[..., RunningServer]


def get(server: RunningServer, path: str) -> httpx.Response:
    return httpx.get(server.url + path, timeout=10, trust_env=False)


def test_alive_and_loading_while_it_loads(start: Start, engine: FakeEngine) -> None:
    engine.load_gate.clear()
    server = start(ready=False)
    assert engine.loading.wait(10)
    for path in ("/health/live", "/v1/health/live"):
        assert get(server, path).json() == {"status": "alive"}
    for path in ("/health/ready", "/v1/health/ready", "/health"):
        response = get(server, path)
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0
        assert response.json() == {"status": "loading", "phase": "weights", "progress": 0.41}


def test_requests_wait_for_the_model_with_the_clients_own_retries(
    start: Start, engine: FakeEngine
) -> None:
    engine.load_gate.clear()
    server = start(ready=False)
    assert engine.loading.wait(10)
    response = get(server, "/v1/models")
    assert response.status_code == 503
    assert response.headers["retry-after"]
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("server_error", "model_not_ready")
    assert error["message"] == "The model is loading (weights, 41%)."
    with server.client(max_retries=5) as client:
        engine.load_gate.set()
        assert client.models.list().data[0].id == MODEL


def test_ready_with_the_models_figures(server: RunningServer) -> None:
    body = get(server, "/health/ready").json()
    memory = body.pop("memory")
    assert body.pop("load_seconds") >= 0
    assert body == {
        "status": "ready",
        "model": MODEL,
        "engine": "fake",
        "dtype": "bfloat16",
        "device": "cpu",
        "tensor_parallel": 1,
        "context_length": CONTEXT,
        "max_sequences": 4,
    }
    assert memory["host_peak_bytes"] >= memory["host_private_bytes"] > 2**20
    assert memory["device_peak_bytes"] is None
    assert (memory["weights_bytes"], memory["kv_cache_bytes"]) == (1000, 2000)


def test_an_engine_that_dies_ends_readiness(server: RunningServer, engine: FakeEngine) -> None:
    engine.alive = False
    response = get(server, "/health/ready")
    assert response.status_code == 503
    assert "retry-after" not in response.headers
    assert response.json() == {
        "status": "failed",
        "error": "the engine has died",
        "hint": "read the log for its error, then start it again",
        "exit_code": 6,
    }
    body = {"messages": [{"role": "user", "content": "hi"}]}
    response = httpx.post(f"{server.url}/v1/chat/completions", json=body, trust_env=False)
    assert response.status_code == 503
    assert "the engine has died" in response.json()["error"]["message"]
    assert get(server, "/health/live").status_code == 200


def test_an_engine_that_says_why_it_died_ends_the_server(start: Start, engine: FakeEngine) -> None:
    server = start()
    death = ServiceError("rank 1 was killed", hint="more memory")
    engine.die(death)
    server.wait_until_ended()
    assert server.load_error is death
    assert engine.closed


def test_a_failed_load_ends_the_server_with_the_error(start: Start, engine: FakeEngine) -> None:
    engine.load_error = EnvironmentNotReady("no memory", hint="buy some")
    server = start(ready=False)
    server.wait_until_ended()
    assert server.load_error is engine.load_error
    with pytest.raises(httpx.ConnectError):
        get(server, "/health/live")


def test_the_engine_is_closed_in_the_end(server: RunningServer, engine: FakeEngine) -> None:
    server.end()
    assert engine.closed
