"""Baichuan2-13B against recordings of its published code."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from kit.models.baichuan2 import Baichuan2Config, Baichuan2ForCausalLM, Baichuan2Tokenizer
from kit.models.baichuan2.alibi_baichuan2 import alibi_slopes
from tests.golden.published import Recording, recordings

RECORDINGS = recordings("baichuan2")
Build = Callable[[torch.dtype, str], Baichuan2ForCausalLM]


@pytest.fixture(scope="module", params=RECORDINGS, ids=lambda each: each.folder.name)
def recording(request: pytest.FixtureRequest) -> Recording:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def build(recording: Recording) -> Build:
    published = recording.json("config.json")
    same = ("vocab_size", "hidden_size", "intermediate_size", "rms_norm_eps")
    state: dict[str, torch.Tensor] = {}
    for name, tensor in recording.state().items():
        if name.endswith(".W_pack.weight"):
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                state[name.replace("W_pack", f"{part}_proj")] = rows
        else:
            state[name] = tensor

    def made(dtype: torch.dtype, attention: str = "sdpa") -> Baichuan2ForCausalLM:
        config = Baichuan2Config(
            num_hidden_layers=published["num_hidden_layers"],
            num_attention_heads=published["num_attention_heads"],
            max_position_embeddings=published["model_max_length"],
            attn_implementation=attention,
            **{name: published[name] for name in same},
        )
        model = Baichuan2ForCausalLM(config).to(dtype).eval()
        model.load_state_dict({name: tensor.to(dtype) for name, tensor in state.items()})
        return model

    return made


@pytest.fixture(scope="module")
def tokenizer(recording: Recording) -> Baichuan2Tokenizer:
    return Baichuan2Tokenizer(str(recording.folder / "model" / "tokenizer.model"))


def worst(model: Baichuan2ForCausalLM, recording: Recording, name: str) -> float:
    """The largest difference to the recorded logits, batch and beyond the context included."""
    gaps = []
    with torch.no_grad():
        for prompt in recording.recorded["prompts"]:
            want = recording.logits[f"{name}.{prompt['index']}"]
            got = model(torch.tensor([prompt["ids"]])).logits[0].float()
            gaps.append((got[-len(want) :] - want).abs().max().item())
        rows = recording.recorded["batch"]
        ids = torch.tensor([row["ids"] for row in rows])
        mask = torch.tensor([row["attention_mask"] for row in rows])
        batch = model(ids, attention_mask=mask).logits.float()
    for number, got in enumerate(batch):
        want = recording.logits[f"{name}.batch.{number}"]
        gaps.append((got[-len(want) :] - want).abs().max().item())
    return max(gaps)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_logits(build: Build, recording: Recording, attention: str) -> None:
    assert worst(build(torch.float32, attention), recording, "fp32") < 1e-4
    # bf16 as published adds ALiBi's absolute bias in 16 bits: it is judged by its own gap to fp32.
    gaps = [each["max_abs_bf16_minus_fp32"] for each in recording.recorded["dtype_gap"]]
    assert worst(build(torch.bfloat16, attention), recording, "bf16") < 2 * max(gaps)


def test_prompts_in_chunks_and_with_a_cache(build: Build, recording: Recording) -> None:
    model = build(torch.float32)
    for prompt in recording.recorded["prompts"]:
        ids = torch.tensor([prompt["ids"]])
        cache = DynamicCache(config=model.config)
        cuts = [*range(0, ids.shape[1], 7), ids.shape[1]]
        with torch.no_grad():
            whole = model(ids).logits
            parts = [
                model(ids[:, begin:end], past_key_values=cache, use_cache=True).logits
                for begin, end in pairwise(cuts)
            ]
        assert (torch.cat(parts, 1) - whole).abs().max() < 1e-4


def test_greedy_tokens(build: Build, recording: Recording) -> None:
    """Every run in fp32: equal as far as the recorded margin decides."""
    model, tried = build(torch.float32), 0
    for run in recording.recorded["generate"]:
        if run["dtype"] != "fp32" or "prompt" not in run:
            continue
        ids = torch.tensor([recording.recorded["prompts"][run["prompt"]]["ids"]])
        new = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=len(run["new"]),
            do_sample=False,
            repetition_penalty=run["repetition_penalty"],
            eos_token_id=recording.recorded["special"]["eos"],
            pad_token_id=recording.recorded["special"]["pad"],
        )[0, ids.shape[1] :].tolist()
        pairs = zip(new, run["new"], run["margins"], strict=False)
        unlike = next((margin for got, want, margin in pairs if got != want), None)
        assert unlike is None or unlike < 1e-3
        tried += 1
    assert tried


def test_a_static_cache_gives_the_same(build: Build, recording: Recording) -> None:
    model = build(torch.float32)
    ids = torch.tensor([recording.recorded["prompts"][2]["ids"]])
    options: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    options["attention_mask"] = torch.ones_like(ids)
    dynamic = model.generate(ids, **options)
    assert torch.equal(dynamic, model.generate(ids, cache_implementation="static", **options))


def test_slopes(recording: Recording) -> None:
    for case in recording.recorded["alibi_slopes"]:
        assert alibi_slopes(case["heads"]) == pytest.approx(case["slopes"], abs=1e-12)


def test_ids_and_text(tokenizer: Baichuan2Tokenizer, recording: Recording) -> None:
    for case in recording.recorded["tokenizer"]:
        assert tokenizer.encode(case["text"], add_special_tokens=False) == case["ids"]
    for case in (*recording.recorded["tokenizer"], *recording.recorded["decode"]):
        assert tokenizer.decode(case["ids"]) == case["decoded"]
        people = tokenizer.decode(case["ids"], skip_special_tokens=True)
        assert people == case["decoded_skip_special"]


def test_conversations(tokenizer: Baichuan2Tokenizer, recording: Recording) -> None:
    context = recording.json("config.json")["model_max_length"]
    default = recording.json("generation_config.json")["max_new_tokens"]
    for case in recording.recorded["chat"]:
        room = context - (case["max_new_tokens"] or default)
        assert tokenizer.chat_input_ids(case["messages"], room) == case["ids"]
    for case in recording.recorded["chat_errors"]:
        with pytest.raises(ValueError, match="message"):
            tokenizer.chat_input_ids(case["messages"], context)


def test_the_template_gives_the_same_where_nothing_is_cut(
    tokenizer: Baichuan2Tokenizer, recording: Recording
) -> None:
    import kit.models.baichuan2

    folder = kit.models.baichuan2.__path__[0]
    with open(f"{folder}/chat_template.jinja", encoding="utf-8") as file:  # noqa: PTH123
        template = file.read()
    context, tried = recording.json("config.json")["model_max_length"], 0
    for case in recording.recorded["chat"]:
        ids = tokenizer.apply_chat_template(
            case["messages"],
            chat_template=template,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
        if len(ids) <= context - (case["max_new_tokens"] or context):
            assert ids == case["ids"]
            tried += 1
    assert tried > 5
