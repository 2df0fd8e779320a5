"""A server on a real port, with scripted engines behind it."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for serve_fakes; importlib mode adds no paths

from serve_fakes import FakeEngine, RunningServer, source

from kit.serve.api.app import AppOptions
from kit.serve.server import ServerOptions

Start = Callable[..., RunningServer]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def start(engine: FakeEngine) -> Iterator[Start]:
    """Starts servers, with options of the app's; they end with the test."""
    running: list[RunningServer] = []

    def start_one(ready: bool = True, **app: object) -> RunningServer:
        options = ServerOptions(port=0, grace_seconds=5, app=AppOptions(**app))  # type: ignore[arg-type]
        running.append(RunningServer(source(engine), options))
        if ready:
            running[-1].wait_until_ready()
        return running[-1]

    yield start_one
    engine.go_on()
    for server in running:
        server.end()


@pytest.fixture
def server(start: Start) -> RunningServer:
    return start()


@pytest.fixture
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20, trust_env=False) as client:
        yield client


@pytest.fixture
def client(server: RunningServer) -> Iterator[openai.OpenAI]:
    with server.client() as client:
        yield client
