"""The native engine against the transformers model: same tokens, whatever the window or company."""

import json
import math
import queue
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from kit.errors import EnvironmentNotReady, IntegrityError, ServiceError, UsageError
from kit.models.spark import SparkForCausalLM, SparkModel
from kit.serve.engine import SamplingParams, Step
from kit.serve.native.engine import NativeEngine

Steps = queue.Queue[Step | Exception]


@contextmanager
def running(directory: Path, **options: object) -> Iterator[NativeEngine]:
    engine = NativeEngine(directory, **options)
    engine.load(lambda phase, fraction: None)
    try:
        yield engine
    finally:
        engine.close()


def collect(steps: Steps) -> list[Step]:
    collected: list[Step] = []
    while not collected or collected[-1].finish_reason is None:
        step = steps.get(timeout=60)
        if isinstance(step, Exception):
            raise step
        collected.append(step)
    return collected


def generate(engine: NativeEngine, prompt: list[int], **params: object) -> list[Step]:
    steps: Steps = queue.Queue()
    engine.submit(prompt, SamplingParams(**{"ignore_end": True} | params), steps.put)
    return collect(steps)


def tokens(steps: list[Step]) -> list[int]:
    return [step.token_id for step in steps]


def prompt(length: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(20, 2000) for _ in range(length)]


@pytest.fixture(scope="module")
def model_dir(make_model) -> Path:
    return make_model()


@pytest.fixture(scope="module")
def engine(model_dir) -> Iterator[NativeEngine]:
    with running(model_dir, max_sequences=3) as engine:
        yield engine


@pytest.mark.parametrize("kind", ["block", "exact"])
@pytest.mark.parametrize("window", [None, 128, 200, 256])
def test_long_sequences_wrap_around_the_ring(make_model, window, kind):
    """The ring holds the window and one chunk; the full model holds everything and masks."""
    directory = make_model(sliding_window=window)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"window": kind}))
    ids = prompt(1500)
    with running(directory, context=1600) as engine:
        steps = generate(engine, ids, max_tokens=40, top_logprobs=0)
    model = SparkForCausalLM.from_pretrained(directory)
    with torch.inference_mode():
        logits = model(torch.tensor([ids + tokens(steps)[:-1]])).logits[0, len(ids) - 1 :]
    expected = torch.log_softmax(logits, dim=-1)
    assert logits.argmax(dim=-1).tolist() == tokens(steps)
    for step, row in zip(steps, expected, strict=True):
        assert step.logprobs.chosen == pytest.approx(float(row[step.token_id]), abs=1e-4)


def test_company_does_not_change_the_answer(engine):
    """Many sequences of different lengths, some cancelled: each gets what it gets alone."""
    rng = random.Random(7)
    jobs = [(prompt(rng.choice([1, 3, 40, 600]), seed), rng.randrange(1, 30)) for seed in range(24)]
    alone = [tokens(generate(engine, ids, max_tokens=count)) for ids, count in jobs]
    queues: list[Steps] = []
    for number, (ids, count) in enumerate(jobs):
        params = SamplingParams(max_tokens=count, ignore_end=True)
        queues.append(queue.Queue())
        cancel = engine.submit(ids, params, queues[-1].put)
        if number % 5 == 4:
            cancel()
    for number, steps in enumerate(queues):
        if number % 5 != 4:
            assert tokens(collect(steps)) == alone[number]


def test_cancel_in_the_middle_frees_the_row(engine):
    started, cancels = threading.Event(), []

    def on_step(step: object) -> None:
        started.set()

    for _ in range(3):
        params = SamplingParams(max_tokens=1500, ignore_end=True)
        cancels.append(engine.submit(prompt(2), params, on_step))
    assert started.wait(60)
    for cancel in cancels:
        cancel()
    assert len(generate(engine, prompt(2), max_tokens=3)) == 3
    assert engine.stats().waiting == 0


def test_listener_that_raises_ends_only_its_own_sequence(engine):
    def broken(step: object) -> None:
        raise RuntimeError("the client is gone")

    engine.submit(prompt(3), SamplingParams(max_tokens=5), broken)
    assert len(generate(engine, prompt(3), max_tokens=5)) == 5
    assert engine.healthy()


def test_kernel_failure_ends_the_sequences_not_the_engine(model_dir, monkeypatch):
    with running(model_dir) as engine:
        monkeypatch.setattr(SparkModel, "forward", lambda self, **_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            generate(engine, prompt(3), max_tokens=5)
        monkeypatch.undo()
        assert len(generate(engine, prompt(3), max_tokens=5)) == 5


def test_seed_repeats_and_other_seeds_differ(engine):
    def sample(seed: int | None) -> list[int]:
        return tokens(generate(engine, prompt(5), max_tokens=20, temperature=1.5, seed=seed))

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)
    assert sample(None) != sample(None)


def test_top_p_and_top_k_limit_the_choice(engine):
    greedy = tokens(generate(engine, prompt(5), max_tokens=12))
    for filters in ({"top_k": 1}, {"top_p": 1e-6}):
        assert (
            tokens(generate(engine, prompt(5), max_tokens=12, temperature=2, **filters)) == greedy
        )


def test_penalties_count_generated_tokens_only(engine):
    free = tokens(generate(engine, prompt(5), max_tokens=40))
    never_again = tokens(generate(engine, prompt(5), max_tokens=40, presence_penalty=1000))
    assert len(set(free)) < len(free), "this prompt should make the model repeat itself"
    assert len(set(never_again)) == len(never_again)


def test_logprobs_are_of_the_models_own_scores(engine):
    steps = generate(engine, prompt(5), max_tokens=8, presence_penalty=1000, top_logprobs=4)
    for step in steps:
        ids, values = zip(*step.logprobs.top, strict=True)
        assert len(set(ids)) == 4
        assert list(values) == sorted(values, reverse=True)
        assert step.logprobs.chosen <= values[0] <= 0
        assert math.isfinite(step.logprobs.chosen)


def test_minimum_length_and_end(make_model, engine):
    directory = make_model()
    end = tokens(generate(engine, prompt(5), max_tokens=1))[0]
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"eos_token_id": end}))
    with running(directory) as engine:
        at_once = generate(engine, prompt(5), max_tokens=5, min_tokens=0, ignore_end=False)
        later = generate(engine, prompt(5), max_tokens=5, min_tokens=3, ignore_end=False)
    assert [(step.token_id, step.finish_reason) for step in at_once] == [(end, "stop")]
    assert end not in tokens(later)[:3]


def test_limits(model_dir, engine):
    with pytest.raises(ValueError, match="do not fit a context of 2048"):
        engine.submit(prompt(2000), SamplingParams(max_tokens=49), print)
    with pytest.raises(ValueError, match="0 prompt tokens"):
        engine.submit([], SamplingParams(max_tokens=4), print)
    with pytest.raises(UsageError, match="made for 2 to 2048"):
        NativeEngine(model_dir, context=4096).load(lambda phase, fraction: None)


def test_closing_ends_what_runs(model_dir):
    steps: Steps = queue.Queue()
    with running(model_dir, max_sequences=1) as engine:
        for _ in range(2):
            params = SamplingParams(max_tokens=2000, ignore_end=True)
            engine.submit(prompt(2), params, steps.put)
        steps.get(timeout=60)
    endings = [step for step in list(steps.queue) if isinstance(step, Exception)]
    assert [type(ending) for ending in endings] == [ServiceError, ServiceError]
    assert not engine.healthy()


def test_progress_ends_at_one(model_dir):
    seen: list[tuple[str, float]] = []
    engine = NativeEngine(model_dir)
    info = engine.load(lambda phase, fraction: seen.append((phase, fraction)))
    engine.close()
    weights = [fraction for phase, fraction in seen if phase == "weights"]
    assert weights == sorted(weights)
    assert weights[-1] <= 1
    assert [phase for phase, _ in seen][-2:] == ["kv-cache", "warm-up"]
    assert (info.dtype, info.device, info.context_length) == ("float32", "cpu", 2048)


def test_weights_that_are_not_numbers_never_become_ready(make_model):
    from safetensors.torch import load_file, save_file

    directory = make_model()
    tensors = load_file(directory / "model.safetensors")
    tensors["model.norm.weight"][3] = torch.nan
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(IntegrityError, match="not numbers"):
        NativeEngine(directory).load(lambda phase, fraction: None)


def test_asking_for_a_gpu_that_is_not_there(model_dir):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(EnvironmentNotReady, match="torch sees none"):
        NativeEngine(model_dir, device="cuda").load(lambda phase, fraction: None)
