"""Waiting for a server that leaves probes unanswered: slow is not hung."""

import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from kit.errors import ServiceError
from kit.memory.unavailable import Unavailable
from kit.runtime import ready
from kit.runtime.client import Health, Ready, Silent

READY = Ready("m", "bfloat16", "cpu", 2048, 8, 1.0, None)
MISSED = Silent("ReadTimeout", refused=False)
LISTENER = SimpleNamespace(say=lambda line: None, progress=lambda phase, fraction: None)


def processes(code: str) -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", code])
    yield process.pid
    process.kill()
    process.wait()


@pytest.fixture
def busy() -> Iterator[int]:
    yield from processes("while True: pass")


@pytest.fixture
def asleep() -> Iterator[int]:
    yield from processes("import time; time.sleep(600)")


def wait(pids: tuple[int, ...] | Unavailable, probes: list[Health], seconds: float = 60) -> Ready:
    """Wait for a service of these processes, which answers so."""
    running = SimpleNamespace(alive=True, restarts=0)
    runtime = SimpleNamespace(
        status=lambda: running, processes=lambda: pids, logs=lambda *_, **__: iter(())
    )
    told = iter(probes)
    client = SimpleNamespace(health=lambda: next(told))
    return ready.wait_ready(runtime, running, client, seconds, LISTENER)  # type: ignore[arg-type]


def test_a_server_that_works_is_waited_for(busy: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "POLL_SECONDS", 0.5)  # a real probe waits longer
    assert wait((busy,), [MISSED] * 8 + [READY]) == READY


def test_a_server_that_does_nothing_hangs(asleep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "POLL_SECONDS", 0.5)  # it may still be starting
    with pytest.raises(ServiceError, match="the server hangs: ReadTimeout"):
        wait((asleep,), [MISSED] * 200)


def test_where_nobody_can_tell_the_timeout_decides() -> None:
    assert wait(Unavailable("elsewhere"), [MISSED] * 5 + [READY]) == READY
    with pytest.raises(ServiceError, match=r"not ready after 1 s, while starting"):
        wait(Unavailable("elsewhere"), [MISSED] * 100, seconds=1)
