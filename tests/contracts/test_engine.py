"""What kit/serve/engine.py promises to the server."""

import queue
import threading
import time

import pytest

from kit.serve.engine import Engine, Logprobs, SamplingParams, Step

PROMPT = [100, 101, 102]


class Sequence:
    """A submitted sequence, and the steps that have come."""

    def __init__(self, engine: Engine, params: SamplingParams) -> None:
        self.steps: queue.Queue[Step | Exception] = queue.Queue()
        self.cancel = engine.submit(PROMPT, params, self.steps.put)

    def all_steps(self) -> list[Step]:
        """Every step up to the one that finishes."""
        steps = [self.step()]
        while steps[-1].finish_reason is None:
            steps.append(self.step())
        return steps

    def step(self) -> Step:
        step = self.steps.get(timeout=30)
        assert isinstance(step, Step)
        return step


def test_loading_tells_how_far_it_is_and_what_was_loaded(unloaded: Engine) -> None:
    told: list[tuple[str, float]] = []
    info = unloaded.load(lambda phase, fraction: told.append((phase, fraction)))
    assert told
    assert all(phase and 0.0 <= fraction <= 1.0 for phase, fraction in told)
    assert 0 <= info.end_token_id < info.vocab_size
    assert min(info.context_length, info.max_sequences, info.weights_bytes) > 0
    assert unloaded.healthy()
    unloaded.close()


def test_a_sequence_ends_with_its_token_limit(engine: Engine) -> None:
    steps = Sequence(engine, SamplingParams(max_tokens=5, ignore_end=True)).all_steps()
    assert [step.finish_reason for step in steps] == [None] * 4 + ["length"]
    assert {step.logprobs for step in steps} == {None}


def test_more_sequences_than_run_at_once_all_end(engine: Engine) -> None:
    sequences = [Sequence(engine, SamplingParams(max_tokens=n)) for n in range(1, 8)]
    for limit, sequence in enumerate(sequences, 1):
        assert len(sequence.all_steps()) <= limit


def test_log_probabilities_are_of_the_asked_number(engine: Engine) -> None:
    params = SamplingParams(max_tokens=3, top_logprobs=2, ignore_end=True)
    for step in Sequence(engine, params).all_steps():
        assert isinstance(step.logprobs, Logprobs)
        assert step.logprobs.chosen <= 0
        first, second = step.logprobs.top
        assert first[1] >= second[1]
    [step] = Sequence(engine, SamplingParams(max_tokens=1, top_logprobs=0)).all_steps()
    assert step.logprobs is not None
    assert step.logprobs.top == ()


def test_nothing_more_comes_after_a_cancel(engine: Engine) -> None:
    running = Sequence(engine, SamplingParams(max_tokens=190, ignore_end=True))
    running.step()
    running.cancel()
    running.cancel()
    # whoever comes later gets its answer, and by then the cancelled one is silent
    assert Sequence(engine, SamplingParams(max_tokens=1)).all_steps()
    while not running.steps.empty():
        running.steps.get()
    assert Sequence(engine, SamplingParams(max_tokens=2)).all_steps()
    assert running.steps.empty()


def test_cancelling_what_has_ended_does_nothing(engine: Engine) -> None:
    ended = Sequence(engine, SamplingParams(max_tokens=1))
    ended.all_steps()
    ended.cancel()
    assert engine.healthy()


def test_steps_come_in_a_thread_of_the_engines(engine: Engine) -> None:
    threads: queue.Queue[threading.Thread] = queue.Queue()
    engine.submit(
        PROMPT, SamplingParams(max_tokens=1), lambda _: threads.put(threading.current_thread())
    )
    assert threads.get(timeout=30) is not threading.current_thread()


def test_the_figures_count_tokens(fresh: Engine) -> None:
    before = fresh.stats()
    Sequence(fresh, SamplingParams(max_tokens=3, ignore_end=True)).all_steps()
    deadline = time.monotonic() + 30
    while fresh.stats().generated_tokens < before.generated_tokens + 3:
        assert time.monotonic() < deadline  # a token may be counted just after it is delivered
        time.sleep(0.01)
    after = fresh.stats()
    assert after.prompt_tokens == before.prompt_tokens + len(PROMPT)
    assert after.generated_tokens == before.generated_tokens + 3


@pytest.mark.parametrize("submitted", [0, 3])
def test_closing_ends_it(fresh: Engine, submitted: int) -> None:
    params = SamplingParams(max_tokens=190, ignore_end=True)
    sequences = [Sequence(fresh, params) for _ in range(submitted)]
    fresh.close()
    for sequence in sequences:
        last = sequence.steps.get(timeout=30)
        while isinstance(last, Step) and last.finish_reason is None:
            last = sequence.steps.get(timeout=30)
        assert isinstance(last, Exception) or last.finish_reason == "length"
