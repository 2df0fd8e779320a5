"""Greedy generation: the same tokens as upstream, up to where its own margin decides nothing."""

import queue
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import kit.spark  # noqa: F401  (registers Spark with the Auto classes)
from kit.serve.engine import SamplingParams, Step
from kit.serve.native import NativeEngine

UNDECIDED = {"fp32": 1e-4, "bf16": 0.75}
"""A lead over the second-best token below this may fall either way by rounding alone."""
NOT_A_SERVER_OPTION = {"prevent_newline_after_colon"}


@dataclass(frozen=True)
class Case:
    """One recorded row, cut before the first step that upstream's margin leaves undecided."""

    prompt_ids: list[int]
    tokens: list[int]
    params: SamplingParams


def cases(golden, precision: str) -> list[Case]:
    rows: list[Case] = []
    for name in ("generate", "long"):
        path = golden.folder / f"{name}_{precision}.json"
        if not path.exists():
            continue
        recorded = golden.json(path.name)
        for run in recorded["generate"] if name == "long" else recorded:
            if not run.get("error") and not NOT_A_SERVER_OPTION & set(run.get("overrides", {})):
                rows += run_cases(golden.config, run, UNDECIDED[precision])
    if not rows:
        pytest.skip(f"no {precision} generation recorded here")
    return rows


def run_cases(config: dict[str, Any], run: dict[str, Any], undecided: float) -> Iterator[Case]:
    knobs = config | run.get("overrides", {})
    start = 1 if knobs.get("add_BOS") else 0
    lengths = [start + len(ids) for ids in run["prompt_ids"]]
    for row, length in enumerate(lengths):
        prompt, tokens = run["tokens"][row][:length], run["tokens"][row][length:]
        tokens = tokens[: run["gen_len"][row] - length]
        if "steps" in run:
            margins = [step["margin"][row] for step in run["steps"]][length - min(lengths) :]
            decided = next((i for i, m in enumerate(margins) if m < undecided), len(tokens))
            tokens = tokens[:decided]
        elif run["min_margin"] < undecided:
            continue
        if tokens:
            yield Case(prompt, tokens, sampling_params(knobs, len(tokens)))


def sampling_params(knobs: dict[str, Any], count: int) -> SamplingParams:
    """Upstream's knobs in OpenAI's terms: the first occurrence costs presence + frequency."""
    once, again = knobs["repeat_penalty"], knobs["num_repeat_penalty"]
    if once <= 0 and again <= 0:
        once = again = 0.0
    return SamplingParams(
        max_tokens=count,
        min_tokens=knobs["min_len"],
        presence_penalty=once - again,
        frequency_penalty=again,
        ignore_end=knobs.get("use_eod_token_for_early_termination") is False,
    )


def collect(steps: "queue.Queue[Step | Exception]") -> list[int]:
    tokens: list[int] = []
    while True:
        step = steps.get(timeout=120)
        if isinstance(step, Exception):
            raise step
        tokens.append(step.token_id)
        if step.finish_reason:
            return tokens


@pytest.fixture(params=["fp32", "bf16"])
def precision(request) -> str:
    return request.param


@pytest.fixture
def engine(golden, converted, precision) -> Iterator[NativeEngine]:
    directory: Path = converted(golden, precision)
    engine = NativeEngine(directory, context=golden.config["max_position_embeddings"])
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
