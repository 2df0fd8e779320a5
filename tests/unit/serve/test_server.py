"""The server as a process: binding, loading, signals, exit codes."""

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest
from serve_fakes import MODEL, FakeEngine, RunningServer, source

from kit.errors import EnvironmentNotReady, IntegrityError, KitError, ServiceError
from kit.serve.server import ServerOptions, bind, refused

MAIN = Path(__file__).with_name("fake_server_main.py")
ROOT = Path(__file__).parents[3]


class Process:
    """A server process whose log is read as it comes."""

    def __init__(self, mode: str, port: int = 0) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, str(MAIN), str(port), mode],
            stderr=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": str(ROOT), "PATH": ""},
        )
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stderr is not None
        self.log.extend(iter(self.popen.stderr.readline, ""))

    def wait_for(self, pattern: str) -> re.Match[str]:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for line in list(self.log):
                if found := re.search(pattern, line):
                    return found
            if self.popen.poll() is not None:
                break
            time.sleep(0.01)
        raise AssertionError(f"no {pattern!r} in {self.log}")

    def url(self) -> str:
        return self.wait_for(r"(http://[\d.:]+)/health/ready")[1]

    def exit_code(self) -> int:
        code = self.popen.wait(30)
        self._reader.join()
        return code


@contextmanager
def process(mode: str, port: int = 0) -> Iterator[Process]:
    started = Process(mode, port)
    try:
        yield started
    finally:
        started.popen.kill()
        started.exit_code()


def slow_answer(url: str) -> Iterator[openai.types.chat.ChatCompletionChunk]:
    """A stream that has given its first text and now waits."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=30)
    stream = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "hi"}], stream=True
    )
    while not next(stream).choices[0].delta.content:
        pass
    return stream


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_stop_lets_a_running_answer_finish(number: signal.Signals) -> None:
    with process("paused") as server:
        server.wait_for("ready after")
        url = server.url()
        stream = slow_answer(url)
        server.popen.send_signal(number)
        until_refused(url)
        server.popen.send_signal(signal.SIGUSR1)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text.endswith("lo, 世界!")
        assert server.exit_code() == 0
        assert "Traceback" not in "".join(server.log)


def until_refused(url: str) -> None:
    """Return when the server takes no new connections."""
    for _ in range(1000):
        try:
            httpx.get(f"{url}/health/live", trust_env=False)
        except httpx.TransportError:
            return
        time.sleep(0.01)
    raise AssertionError("it goes on listening")


def test_answers_that_take_longer_than_the_grace_end_with_an_error() -> None:
    """A stream with an event, a whole answer and a body that is not complete with a status."""
    with process("stuck") as server:
        server.wait_for("ready after")
        url = server.url()
        stream = slow_answer(url)
        told: list[httpx.Response] = []

        def ask() -> None:
            body = {"messages": [{"role": "user", "content": "hi"}]}
            route = f"{url}/v1/chat/completions"
            told.append(httpx.post(route, json=body, timeout=60, trust_env=False))

        whole = threading.Thread(target=ask)
        whole.start()
        while "kit_sequences_running 2" not in httpx.get(f"{url}/metrics", trust_env=False).text:
            time.sleep(0.01)
        server.popen.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)
        whole.join()
        assert told[0].status_code == 503
        assert told[0].json()["error"]["code"] == "shutting_down"
        assert server.exit_code() == 0
        assert "Traceback" not in "".join(server.log)


@pytest.mark.parametrize("mode", ["ready", "loading"])
def test_a_signal_to_an_idle_or_loading_server_ends_it_at_once(mode: str) -> None:
    with process(mode) as server:
        url = server.url()
        assert httpx.get(f"{url}/health/live", trust_env=False).status_code == 200
        server.popen.send_signal(signal.SIGTERM)
        assert server.exit_code() == 0


def test_a_model_that_cannot_be_loaded_ends_it_with_the_errors_code() -> None:
    with process("fails") as server:
        assert server.exit_code() == 4
        assert server.log[-2:] == ["error: shard 3 is damaged\n", "hint: fetch it again\n"]


def test_a_bug_in_loading_ends_it_with_its_traceback() -> None:
    with process("crashes") as server:
        assert server.exit_code() == 1
        assert server.log[-1] == "ZeroDivisionError: a bug\n"


def test_a_busy_port_ends_it_before_anything_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with process("ready", port) as server:
            assert server.exit_code() == 3
            assert server.log[0] == f"error: port {port} on 127.0.0.1 is in use\n"
            assert server.log[1].startswith("hint: ")
            assert len(server.log) == 2


def test_an_address_of_another_machine_cannot_be_bound() -> None:
    with pytest.raises(EnvironmentNotReady, match=r"192\.0\.2\.1 port 0: Cannot assign"):
        bind("192.0.2.1", 0)
    with pytest.raises(EnvironmentNotReady, match=r"nowhere\.invalid"):
        bind("nowhere.invalid", 0)


def until_failed(server: RunningServer) -> dict[str, object]:
    deadline = time.monotonic() + 20
    while (told := server.ready().json())["status"] != "failed":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return dict(told)


@pytest.mark.parametrize("error", [IntegrityError, EnvironmentNotReady])
def test_what_would_fail_again_may_stay_and_say_why(
    error: type[KitError], capfd: pytest.CaptureFixture[str]
) -> None:
    engine = FakeEngine()
    engine.load_error = error("something is wrong", hint="mend it")
    server = RunningServer(source(engine), ServerOptions(port=0, stays=True))
    told = until_failed(server)
    assert (told["error"], told["exit_code"]) == ("something is wrong", error.exit_code)
    assert "error: something is wrong\nhint: mend it\n" in capfd.readouterr().err
    server.end()
    assert server.load_error is None


def test_what_was_refused_before_it_was_loaded_stays_too() -> None:
    reason = EnvironmentNotReady("there is no model", hint="mount one")
    server = RunningServer(refused(reason), ServerOptions(port=0, stays=True))
    assert until_failed(server)["error"] == "there is no model"
    server.end()


def test_what_may_go_well_the_next_time_ends_in_any_case() -> None:
    engine = FakeEngine()
    engine.load_error = ServiceError("bad luck", hint="again")
    server = RunningServer(source(engine), ServerOptions(port=0, stays=True))
    server.wait_until_ended()
    assert server.load_error is engine.load_error
