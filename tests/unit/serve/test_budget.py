"""A service that passes its budget while it serves."""

import logging
import time
from collections.abc import Callable

import httpx
import pytest
from serve_fakes import FakeEngine, RunningServer, source

from kit.errors import UsageError
from kit.memory.budget import Budget, Measured
from kit.memory.unavailable import Unavailable
from kit.serve.budget import BudgetWatch, Footprint, OnBreach, Parts, read_on_breach
from kit.serve.readiness import Failed, Readiness, Ready
from kit.units import GIB, MIB

NO_GPU = Unavailable("the model runs on the CPU")


class Watched:
    """A ready service whose memory the test decides; its budget is 2 GiB of host RAM."""

    def __init__(self, on_breach: OnBreach = "unready", budget: Budget | None = None) -> None:
        self.readiness = Readiness()
        self.readiness.load(source(FakeEngine()))
        self.peak: int | Unavailable = 0
        self.parts = Parts(GIB, 100 * MIB)
        self.returned = self.tidied = 0
        self.can_be_returned = 0
        self.watch = BudgetWatch(
            budget or Budget(2 * GIB, None),
            self.readiness,
            self.look,
            give_back=self.give_back,
            tidy=self.tidy,
            on_breach=on_breach,
        )
        self.watch.check()

    def look(self) -> Footprint:
        now = self.parts.host_bytes
        self.peak = max(self.peak, now) if isinstance(self.peak, int) else self.peak
        return Footprint(Measured(self.peak, NO_GPU), Measured(now, NO_GPU), self.parts)

    def tidy(self) -> None:
        self.tidied += 1

    def give_back(self) -> None:
        self.returned += 1
        self.parts = Parts(self.parts.private - self.can_be_returned, self.parts.mapped)

    def holds(self, private: int) -> None:
        self.parts = Parts(private, 100 * MIB)
        self.watch.check()

    def is_ready(self) -> bool:
        return isinstance(self.readiness.state(), Ready)


def test_a_breach_ends_readiness_and_names_what_grew(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched()
    assert watched.is_ready()
    watched.holds(3 * GIB - 100 * MIB)
    state = watched.readiness.state()
    assert isinstance(state, Failed)
    assert state.error == (
        "host RAM is 3.00 GiB, 1.00 GiB over the budget of 2.00 GiB. "
        "Since it was ready: private memory +1.90 GiB"
    )
    assert "--max-ram" in state.hint
    assert state.exit_code == 5
    assert "not ready until that ends" in caplog.text


def test_it_is_ready_again_when_the_breach_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched()
    for _ in range(3):
        watched.holds(3 * GIB)
    assert not watched.is_ready()
    watched.holds(GIB)
    assert watched.is_ready()
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "within it again" in caplog.text


def test_what_can_be_given_back_is_no_breach() -> None:
    watched = Watched()
    watched.can_be_returned = GIB
    watched.holds(5 * GIB // 2)
    assert (watched.returned, watched.is_ready()) == (1, True)


def test_what_has_grown_is_tidied_up_now_and_then() -> None:
    watched = Watched()
    for _ in range(20):
        watched.holds(GIB + MIB)
    assert watched.tidied == 0
    for _ in range(20):
        watched.holds(GIB + 100 * MIB)
    assert watched.tidied == 4
    assert watched.is_ready()


def test_a_peak_of_the_past_is_reported_once_and_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watched = Watched()
    watched.peak = 3 * GIB
    for _ in range(3):
        watched.watch.check()
    assert watched.is_ready()
    said = "peak host RAM 3.00 GiB, 1.00 GiB over the budget of 2.00 GiB"
    assert watched.readiness.passed == {"host RAM": said}
    assert caplog.text.count(said) == 1


def test_whoever_says_so_keeps_a_service_that_is_over_its_budget() -> None:
    watched = Watched("report")
    watched.holds(3 * GIB)
    assert watched.is_ready()
    assert watched.readiness.breach is not None


def test_what_cannot_be_measured_is_no_breach() -> None:
    watched = Watched(budget=Budget(None, GIB))
    watched.watch.check()
    assert watched.is_ready()


def test_a_look_that_fails_is_not_the_last(caplog: pytest.LogCaptureFixture) -> None:
    looks: list[int] = []

    def look() -> Footprint:
        looks.append(1)
        raise OSError("/proc is gone")

    watch = BudgetWatch(Budget(GIB), Readiness(), look, check_seconds=0.001)
    watch.start()
    until(lambda: len(looks) > 2)
    watch.stop()
    assert "/proc is gone" in caplog.text


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_without_a_promise_nothing_is_measured() -> None:
    watch = BudgetWatch(Budget(None, None), Readiness(), lambda: 1 / 0, check_seconds=0)  # type: ignore
    watch.start()
    watch.stop()


def test_the_setting() -> None:
    assert [read_on_breach(text) for text in ("unready", "report")] == ["unready", "report"]
    with pytest.raises(UsageError, match="KIT_ON_BREACH is 'ignore'"):
        read_on_breach("ignore")


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
    assert "kit_memory_over_budget 1.0" in text


def test_health_tells_of_a_breach_that_is_only_reported(
    start: Callable[..., RunningServer],
) -> None:
    server = start(ready=False, budget=Budget(max_ram_bytes=1), on_breach="report")
    until(lambda: "budget" in server.ready().json())
    assert server.ready().status_code == 200
    told = server.ready().json()["budget"]
    assert "host RAM is" in told["breach"]
    assert told["passed_peaks"][0].startswith("peak host RAM")
