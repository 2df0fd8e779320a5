"""Greedy generation: the same tokens as upstream, up to where its own margin decides nothing."""

import queue
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from golden_runs import Case, collect, read_cases
from transformers import AutoModelForCausalLM

import kit.models.spark  # noqa: F401  (registers Spark with the Auto classes)
from kit.serve.engine import Step
from kit.serve.native.engine import NativeEngine


def cases(golden, precision: str) -> list[Case]:
    rows = read_cases(golden.folder, precision)
    if not rows:
        pytest.skip(f"no {precision} generation recorded here")
    return rows


@pytest.fixture(params=["fp32", "bf16"])
def precision(request) -> str:
    return request.param


@pytest.fixture
def engine(golden, converted, precision) -> Iterator[NativeEngine]:
    directory: Path = converted(golden, precision)
    engine = NativeEngine(directory, context=golden.context)
    engine.load(lambda phase, fraction: None)
    yield engine
    engine.close()


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "all at once"])
def test_native_engine(golden, engine, precision, together):
    recorded = cases(golden, precision)
    queues: list[queue.Queue[Step | Exception]] = []
    for case in recorded:
        queues.append(queue.Queue())
        engine.submit(case.prompt_ids, case.params, queues[-1].put)
        if not together:
            assert collect(queues[-1]) == case.tokens
    if together:
        for case, steps in zip(recorded, queues, strict=True):
            assert collect(steps) == case.tokens


def test_transformers_generate(golden, converted, precision):
    model = AutoModelForCausalLM.from_pretrained(converted(golden, precision))
    for case in cases(golden, precision)[:24]:
        prompt = torch.tensor([case.prompt_ids])
        output = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=case.params.max_tokens,
            min_new_tokens=case.params.min_tokens,
            presence_penalty=case.params.presence_penalty,
            frequency_penalty=case.params.frequency_penalty,
        )
        assert output[0, len(case.prompt_ids) :].tolist() == case.tokens
