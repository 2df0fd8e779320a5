"""Forward passes of several sequences: padding changes nothing, and a fault stays in its row."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kit.models.spark import SparkForCausalLM
from kit.serve.engine import SamplingParams, Step
from kit.serve.native.batch import Batch
from kit.serve.native.cache import RingCache
from kit.serve.native.loader import load_model
from kit.serve.shapes import Shapes
from kit.serve.worker import EngineSequence

CPU = torch.device("cpu")
CHUNK = 112
END = 5


def random_ids(length: int, seed: int) -> list[int]:
    return [random.Random(seed).randrange(20, 2000) for _ in range(length)]


class Run:
    """A batch of four rows over a ring of 240 positions, and what its sequences were told."""

    def __init__(self, directory: Path, *, exact: bool, positions: int = 240) -> None:
        self.model = load_model(directory, CPU, "auto", lambda *_: None)
        self.cache = RingCache(self.model.config, 4, positions, torch.float32, CPU)
        self.batch = Batch(
            self.model, self.cache, chunk=CHUNK, end_token_id=END, shapes=Shapes(exact)
        )
        self.told: list[list[Step | Exception]] = []

    def admit(self, prompt: list[int], **params: object) -> list[Step | Exception]:
        while not self.batch.has_room():
            self.batch.advance()
        self.told.append([])
        settings = {"max_tokens": 30, "top_logprobs": 1, "ignore_end": True} | params
        wanted = SamplingParams(**settings)
        self.batch.admit(EngineSequence(prompt, wanted, self.told[-1].append))
        return self.told[-1]

    def finish(self) -> None:
        while len(self.batch):
            self.batch.advance()


def ids(told: list[Step | Exception]) -> list[int]:
    assert all(isinstance(step, Step) for step in told), told
    return [step.token_id for step in told]


def logprobs(told: list[Step | Exception]) -> list[float]:
    return [step.logprobs.chosen for step in told]


@pytest.fixture(params=[(128, "block"), (128, "exact"), (117, "block"), (None, "block")])
def directory(request: pytest.FixtureRequest, make_model: Callable[..., Path]) -> Path:
    window, kind = request.param
    return make_model(sliding_window=window, window=kind)


def test_padding_changes_nothing(directory: Path) -> None:
    """Prompts shorter and longer than window and ring, alone and together."""
    windowed = load_model(directory, CPU, "auto", lambda *_: None).config.sliding_window is not None
    longest = 400 if windowed else 200
    jobs = [random_ids(length, length) for length in (1, 2, 15, 17, 100, 113, 195, longest)]
    runs = {exact: Run(directory, exact=exact) for exact in (True, False)}
    for run in runs.values():
        for job in jobs:
            run.admit(job)
        run.finish()
    for plain, padded in zip(runs[True].told, runs[False].told, strict=True):
        assert ids(plain) == ids(padded)
        assert logprobs(plain) == pytest.approx(logprobs(padded), abs=1e-4)


def test_padding_is_neither_stored_nor_seen(directory: Path) -> None:
    run = Run(directory, exact=False)
    for layer in (*run.cache.keys, *run.cache.values):
        layer.fill_(7.0)
    run.admit(random_ids(17, 3), max_tokens=2)
    run.batch.advance()
    assert run.cache.key_positions[0].tolist() == [*range(17), *[-1] * (240 - 17)]
    assert all((layer[0, :, 17:] == 7).all() for layer in run.cache.keys)
    assert all((layer[1:] == 7).all() for layer in run.cache.values)


def shapes_of(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """Shapes of the passes that ``run`` makes from now on: rows, tokens, keys and the mask's."""
    seen: list[tuple[object, ...]] = []
    forward = torch.nn.functional.scaled_dot_product_attention

    def attention(query, key, value, attn_mask=None, is_causal=False, **kwargs):
        mask = None if attn_mask is None else tuple(attn_mask.shape)
        seen.append((*query.shape[0:3:2], key.shape[2], mask, is_causal))
        return forward(query, key, value, attn_mask=attn_mask, is_causal=is_causal, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    return seen


def test_every_length_of_a_prompt_has_one_of_a_handful_of_shapes(make_model, monkeypatch) -> None:
    run = Run(make_model(sliding_window=128), exact=False)
    seen = shapes_of(run, monkeypatch)
    for length in range(1, 231):
        run.admit(random_ids(length, 1), max_tokens=2)
    run.finish()
    prompts = {each for each in seen if each[1] > 1}
    assert len(prompts) <= 20
    assert len(set(seen) - prompts) <= 16


def test_no_mask_where_every_key_is_seen(make_model, monkeypatch) -> None:
    run = Run(make_model(sliding_window=128), exact=True)
    seen = shapes_of(run, monkeypatch)
    run.admit(random_ids(20, 1), max_tokens=260)
    run.finish()
    per_layer = run.model.config.num_hidden_layers
    passes = seen[::per_layer]
    assert passes[0] == (1, 20, 20, None, True)
    decoding = passes[1:]
    assert [each[2] for each in decoding[:100]] == list(range(21, 121))
    unmasked = [each for each in decoding if each[3] is None]
    assert len(unmasked) > len(decoding) * 2 // 3  # the others lie across the ring's seam
    assert max(each[2] for each in unmasked) <= 128


def test_not_a_number_ends_its_own_sequence(make_model, monkeypatch) -> None:
    """Whatever the model gives for one row: infinities, no numbers."""
    run = Run(make_model(), exact=False)
    alone = Run(make_model(), exact=False)
    alone.admit(random_ids(9, 1))
    alone.finish()
    for value in (float("nan"), float("inf"), -float("inf")):
        for sampling in ({}, {"temperature": 1.0, "top_k": 5, "top_p": 0.5}):
            well = run.admit(random_ids(9, 1))
            ill = run.admit(random_ids(30, 2), **sampling)
            run.batch.advance()
            forward = run.model.lm_head.forward

            def poisoned(hidden, forward=forward, value=value):
                scores = forward(hidden)
                scores[1, 3] = value
                return scores

            with monkeypatch.context() as patch:
                patch.setattr(run.model.lm_head, "forward", poisoned)
                run.batch.advance()
            run.finish()
            assert ids(well) == ids(alone.told[0])
            assert "not numbers" in str(ill[-1])


def test_a_tiny_temperature_is_greedy(make_model) -> None:
    run = Run(make_model(), exact=False)
    for temperature in (0.0, 1e-40, 5e-324, 9e-6):
        run.admit(random_ids(9, 1), temperature=temperature)
    run.finish()
    first, *others = map(ids, run.told)
    assert all(other == first for other in others)


@pytest.mark.parametrize(
    "extreme",
    [
        {"top_k": 10**30},
        {"top_p": 1e-300},
        {"temperature": 1e-5},
        {"temperature": 2.0, "top_k": 1, "top_p": 5e-324},
        {"top_logprobs": 10**6},
        {"seed": 2**63 - 1},
        {"seed": -(2**63)},
    ],
)
def test_no_parameter_hurts_the_neighbours(make_model, extreme) -> None:
    run = Run(make_model(), exact=False)
    well = run.admit(random_ids(9, 1), max_tokens=4)
    wild = run.admit(random_ids(9, 2), **{"max_tokens": 4, "temperature": 1.0} | extreme)
    run.finish()
    assert len(ids(well)) == len(ids(wild)) == 4


def test_a_seed_gives_the_same_in_any_company(make_model) -> None:
    directory = make_model()
    sampled = {"temperature": 1.2, "seed": 11, "top_p": 0.9}
    alone = Run(directory, exact=False)
    alone.admit(random_ids(9, 1), **sampled)
    alone.finish()
    company = Run(directory, exact=False)
    company.admit(random_ids(20, 2), temperature=0.7, top_k=3)
    company.admit(random_ids(5, 4))
    told = company.admit(random_ids(9, 1), **sampled)
    company.finish()
    assert ids(told) == ids(alone.told[0])


def test_a_lack_of_memory_for_a_prompt_ends_that_prompt(make_model, monkeypatch) -> None:
    run = Run(make_model(), exact=False)
    well = run.admit(random_ids(9, 1), max_tokens=6)
    run.batch.advance()
    greedy = run.admit(random_ids(100, 2))
    forward = SparkForCausalLM.base_model.fget(run.model).forward  # type: ignore[attr-defined]

    def lacking(input_ids, **kwargs):
        if input_ids.shape[1] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(input_ids=input_ids, **kwargs)

    monkeypatch.setattr(run.model.model, "forward", lacking)
    run.finish()
    assert len(ids(well)) == 6
    assert isinstance(greedy[-1], torch.OutOfMemoryError)
