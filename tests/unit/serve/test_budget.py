"""A service that passes its budget while it serves."""

import time
from collections.abc import Callable

import httpx
from serve_fakes import FakeEngine, RunningServer, source

from kit.memory.hold import Budget, Measured
from kit.memory.unavailable import Unavailable
from kit.serve.budget import BudgetWatch
from kit.serve.readiness import Failed, Readiness, Ready
from kit.units import GIB

NO_GPU = Unavailable("the model runs on the CPU")


def ready() -> Readiness:
    readiness = Readiness()
    readiness.load(source(FakeEngine()))
    return readiness


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_breach_ends_readiness_and_says_so() -> None:
    readiness, peaks = ready(), [Measured(GIB, NO_GPU)]
    looks: list[Measured] = []

    def measure() -> Measured:
        looks.append(peaks[-1])
        return peaks[-1]

    BudgetWatch(Budget(2 * GIB, None), readiness, measure, check_seconds=0.001).start()
    until(lambda: len(looks) > 2)
    assert isinstance(readiness.state(), Ready)
    peaks.append(Measured(3 * GIB, NO_GPU))
    until(lambda: not isinstance(readiness.state(), Ready))
    state = readiness.state()
    assert isinstance(state, Failed)
    assert state.error == "peak host RAM 3.00 GiB, 1.00 GiB over the budget of 2.00 GiB"
    assert "--max-ram" in state.hint


def test_a_promise_that_cannot_be_measured_is_a_breach() -> None:
    readiness = ready()
    watch = BudgetWatch(Budget(None, GIB), readiness, lambda: Measured(1, NO_GPU), check_seconds=0)
    watch.start()
    until(lambda: isinstance(readiness.state(), Failed))


def test_without_a_promise_nothing_is_measured() -> None:
    watch = BudgetWatch(Budget(None, None), ready(), lambda: 1 / 0, check_seconds=0)  # type: ignore
    watch.start()
    watch.stop()


def test_a_server_over_its_budget_answers_503_and_goes_on_living(
    start: Callable[..., RunningServer],
) -> None:
    server = start(ready=False, budget=Budget(max_ram_bytes=1, max_vram_bytes=None))
    until(lambda: server.ready().json()["status"] == "failed")
    assert "host RAM" in server.ready().json()["error"]
    with httpx.Client(base_url=server.url, trust_env=False) as http:
        question = {"messages": [{"role": "user", "content": "hi"}]}
        assert http.post("/v1/chat/completions", json=question).status_code == 503
        assert http.get("/health/live").status_code == 200
        text = http.get("/metrics").text
    assert 'kit_memory_budget_bytes{pool="host"} 1.0' in text
    assert "kit_ready 0.0" in text
