"""The engine's thread, with sequences that need no model."""

import queue
import threading

import pytest

from kit.errors import ServiceError
from kit.serve.engine import SamplingParams, Step
from kit.serve.worker import EngineDied, EngineSequence, Worker

Steps = queue.Queue[Step | Exception]


class Counting:
    """Gives each sequence the tokens 0, 1, 2, …; two at a time. Raises what ``error`` holds."""

    def __init__(self) -> None:
        self.sequences: list[EngineSequence] = []
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def __len__(self) -> int:
        return len(self.sequences)

    def has_room(self) -> bool:
        return len(self.sequences) < 2

    def admit(self, sequence: EngineSequence) -> None:
        self.sequences.append(sequence)

    def fail(self, error: Exception) -> None:
        for sequence in self.sequences:
            sequence.fail(error)
        self.sequences.clear()

    def advance(self) -> int:
        self.gate.wait()
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        for sequence in self.sequences:
            sequence.append(sequence.generated, None, end_token_id=-1)
        count = len(self.sequences)
        self.sequences = [each for each in self.sequences if not each.finished]
        return count


@pytest.fixture
def running() -> Counting:
    return Counting()


@pytest.fixture
def worker(running: Counting):
    worker = Worker("test", lambda error: ValueError(f"explained: {error}"))
    worker.start(running, context=100)
    yield worker
    running.gate.set()
    worker.close()


def submit(worker: Worker, count: int) -> Steps:
    steps: Steps = queue.Queue()
    worker.submit([1, 2], SamplingParams(max_tokens=count), steps.put)
    return steps


def tokens(steps: Steps) -> list[int]:
    found: list[int] = []
    while True:
        step = steps.get(timeout=30)
        if isinstance(step, Exception):
            raise step
        found.append(step.token_id)
        if step.finish_reason:
            return found


def test_more_than_fit_wait_their_turn(worker: Worker) -> None:
    queues = [submit(worker, count) for count in (3, 1, 5, 2)]
    assert [len(tokens(steps)) for steps in queues] == [3, 1, 5, 2]
    assert worker.prompt_tokens == 8


def test_what_does_not_fit_the_context_is_refused(worker: Worker) -> None:
    with pytest.raises(ValueError, match="2 prompt tokens and 99 to generate do not fit"):
        submit(worker, 99)
    with pytest.raises(ValueError, match="0 prompt tokens"):
        worker.submit([], SamplingParams(max_tokens=1), print)


def test_an_error_ends_what_runs_and_is_explained(worker: Worker, running: Counting) -> None:
    running.error = RuntimeError("kernel")
    with pytest.raises(ValueError, match="explained: kernel"):
        tokens(submit(worker, 3))
    assert tokens(submit(worker, 3)) == [0, 1, 2]
    assert worker.death is None


def test_a_lost_engine_ends_everything(worker: Worker, running: Counting) -> None:
    running.gate.clear()
    queues = [submit(worker, 3) for _ in range(3)]
    running.error = death = EngineDied("rank 0 is gone", hint="look at the log")
    running.gate.set()
    assert worker.wait() is death
    for steps in queues:
        with pytest.raises(EngineDied):
            tokens(steps)
    with pytest.raises(EngineDied):  # one that comes later is told the same
        tokens(submit(worker, 1))
    assert not worker.alive()


def test_it_can_be_told_of_the_engines_death(worker: Worker) -> None:
    death = ServiceError("gone", hint="-")
    worker.die(death)
    assert worker.wait() is death
    worker.close()
    assert worker.death is death


def test_an_orderly_end(worker: Worker, running: Counting) -> None:
    running.gate.clear()
    steps = submit(worker, 50)
    closing = threading.Thread(target=worker.close)
    closing.start()
    running.gate.set()
    closing.join(30)
    with pytest.raises(ServiceError, match="shutting down"):
        tokens(steps)
    assert worker.wait() is None


def test_requests_take_turns(running: Counting) -> None:
    """Many sequences of one request do not hold those that came after them."""
    order: list[str] = []
    worker = Worker("test")
    running.gate.clear()
    worker.start(running, context=100)

    def listen(name: str):
        return lambda step: order.append(name) if step.finish_reason else None

    for _ in range(5):
        worker.submit([1], SamplingParams(max_tokens=1), listen("many"), request="many")
    for name in ("one", "two"):
        worker.submit([1], SamplingParams(max_tokens=1), listen(name))
    running.gate.set()
    while len(order) < 7:
        pass
    worker.close()
    assert order.index("one") < 4
    assert order.index("two") < 5


def test_what_is_cancelled_waits_no_more(worker: Worker, running: Counting) -> None:
    running.gate.clear()
    cancels = [worker.submit([1], SamplingParams(max_tokens=9), print) for _ in range(9)]
    for cancel in cancels:
        cancel()
    assert worker.counts()[1] == 0


def test_a_sequence_that_cannot_begin_is_the_only_one_that_ends(
    worker: Worker, running: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    admit = running.admit

    def choosy(sequence: EngineSequence) -> None:
        if sequence.params.max_tokens == 66:
            raise ValueError("no")
        admit(sequence)

    monkeypatch.setattr(running, "admit", choosy)
    first, bad, last = (submit(worker, count) for count in (3, 66, 2))
    with pytest.raises(ValueError, match="explained: no"):
        tokens(bad)
    assert tokens(first) == [0, 1, 2]
    assert tokens(last) == [0, 1]


def test_an_explanation_may_be_the_end(running: Counting) -> None:
    def explain(error: Exception) -> Exception:
        return EngineDied("the GPU failed", hint="kit doctor")

    worker = Worker("test", explain)
    worker.start(running, context=100)
    running.error = RuntimeError("device-side assert")
    with pytest.raises(EngineDied):
        tokens(submit(worker, 3))
    assert isinstance(worker.wait(), EngineDied)


def test_it_proves_itself_in_its_own_thread_first(running: Counting) -> None:
    names: list[str] = []
    worker = Worker("own-thread")
    worker.start(running, 100, lambda: names.append(threading.current_thread().name))
    assert names == ["own-thread"]
    worker.close()
    with pytest.raises(ZeroDivisionError):
        Worker("test").start(running, 100, lambda: 1 / 0)
