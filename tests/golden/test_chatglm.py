"""ChatGLM-6B against recordings of its published code."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from transformers import DynamicCache

from kit.models.chatglm import (
    ChatGLM6BConfig,
    ChatGLM6BForConditionalGeneration,
    ChatGLM6BTokenizer,
)
from kit.models.chatglm.prefix_chatglm6b import Prefix
from kit.models.chatglm.tokenization_chatglm6b import reply_text
from tests.golden.published import Recording, recordings

RECORDINGS = recordings("chatglm")
Build = Callable[..., ChatGLM6BForConditionalGeneration]
NAMES = {
    "transformer.word_embeddings": "model.embed_tokens",
    "transformer.final_layernorm": "model.norm",
    "transformer.layers": "model.layers",
    "attention.dense": "self_attn.o_proj",
    "dense_h_to_4h": "up_proj",
    "dense_4h_to_h": "down_proj",
}


@pytest.fixture(scope="module", params=RECORDINGS, ids=lambda each: each.folder.name)
def recording(request: pytest.FixtureRequest) -> Recording:
    return request.param  # type: ignore[no-any-return]


def our_state(recording: Recording, heads: int) -> dict[str, torch.Tensor]:
    """The published tensors as ours: query, key and value of each head lie side by side there."""
    state: dict[str, torch.Tensor] = {}
    for published, tensor in recording.state().items():
        name = published
        for old, new in NAMES.items():
            name = name.replace(old, new)
        if "query_key_value" in name:
            parts = tensor.view(heads, 3, -1, *tensor.shape[1:])
            for number, part in enumerate("qkv"):
                own = name.replace("attention.query_key_value", f"self_attn.{part}_proj")
                state[own] = parts[:, number].reshape(-1, *tensor.shape[1:])
        elif "inv_freq" not in name:
            state[name] = tensor
    return state


@pytest.fixture(scope="module")
def config(recording: Recording) -> ChatGLM6BConfig:
    published = recording.json("config.json")
    names = {
        "num_hidden_layers": "num_layers",
        "intermediate_size": "inner_hidden_size",
        "max_position_embeddings": "max_sequence_length",
        "layer_norm_eps": "layernorm_epsilon",
    }
    same = ("vocab_size", "hidden_size", "num_attention_heads")
    tokens = ("mask", "gmask", "bos", "eos", "pad")
    given = {name: published[theirs] for name, theirs in names.items()}
    given |= {name: published[name] for name in (*same, *(f"{t}_token_id" for t in tokens))}
    return ChatGLM6BConfig(**given)


@pytest.fixture(scope="module")
def build(recording: Recording, config: ChatGLM6BConfig) -> Build:
    state = our_state(recording, config.num_attention_heads)

    def made(dtype: torch.dtype, attention: str = "sdpa") -> ChatGLM6BForConditionalGeneration:
        config._attn_implementation = attention
        model = ChatGLM6BForConditionalGeneration(config).to(dtype).eval()
        model.load_state_dict({name: tensor.to(dtype) for name, tensor in state.items()})
        return model

    return made


@pytest.fixture(scope="module")
def tokenizer(recording: Recording) -> ChatGLM6BTokenizer:
    return ChatGLM6BTokenizer(str(recording.folder / "model" / "ice_text.model"))


def worst(model: ChatGLM6BForConditionalGeneration, recording: Recording, name: str) -> float:
    """The largest difference to the recorded logits, batch and beyond the context included."""
    gaps = []
    with torch.no_grad():
        for prompt in recording.recorded["prompts"]:
            want = recording.logits[f"{name}.{prompt['index']}"]
            got = model(torch.tensor([prompt["ids"]])).logits[0].float()
            gaps.append((got[-len(want) :] - want).abs().max().item())
        ids = torch.tensor([row["ids"] for row in recording.recorded["batch"]])
        mask = (ids != model.config.pad_token_id).long()
        batch = model(ids, attention_mask=mask).logits.float()
    for number, got in enumerate(batch):
        want = recording.logits[f"{name}.batch.{number}"]
        gaps.append((got[-len(want) :] - want).abs().max().item())
    return max(gaps)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_logits(build: Build, recording: Recording, attention: str) -> None:
    assert worst(build(torch.float32, attention), recording, "fp32") < 1e-4
    gaps = [each["max_abs_fp16_minus_fp32"] for each in recording.recorded["dtype_gap"]]
    assert worst(build(torch.float16, attention), recording, "fp16") < 2 * max(gaps)


def test_positions(recording: Recording, config: ChatGLM6BConfig) -> None:
    for prompt in recording.recorded["prompts"]:
        prefix = Prefix.of(torch.tensor([prompt["ids"]]), None, config)
        position, block = prefix.positions(0, prompt["len"])
        kept = len(prompt["positions"])
        assert position[0, -kept:].tolist() == prompt["positions"]
        assert block[0, -kept:].tolist() == prompt["block_positions"]


def test_a_prompt_that_lacks_what_the_tokenizer_adds(
    recording: Recording, config: ChatGLM6BConfig
) -> None:
    for case in recording.recorded["errors"]:
        with pytest.raises(ValueError, match="the tokenizer adds both"):
            Prefix.of(torch.tensor([case["ids"]]), None, config)


def test_answers_with_a_cache(build: Build, recording: Recording) -> None:
    """The prompt as a whole; then what follows, in pieces."""
    model = build(torch.float32)
    for prompt in recording.recorded["prompts"]:
        ids = torch.tensor([prompt["ids"]])
        cache = DynamicCache(config=model.config)
        cuts = [0, *range(prompt["context"] + 1, ids.shape[1], 5), ids.shape[1]]
        with torch.no_grad():
            whole = model(ids).logits
            parts = [
                model(ids[:, begin:end], past_key_values=cache, use_cache=True).logits
                for begin, end in pairwise(cuts)
                if begin < end
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
        )[0, ids.shape[1] :].tolist()
        pairs = zip(new, run["new"], run["margins"], strict=False)
        unlike = next((margin for got, want, margin in pairs if got != want), None)
        assert unlike is None or unlike < 1e-3
        tried += 1
    assert tried


def test_a_cache_from_elsewhere_is_refused(build: Build, config: ChatGLM6BConfig) -> None:
    cache = DynamicCache(config=config)
    keys = torch.zeros(1, config.num_attention_heads, 3, config.head_dim)
    cache.update(keys, keys, 0)
    with pytest.raises(ValueError, match="was not filled by a prompt"):
        build(torch.float32)(torch.tensor([[7]]), past_key_values=cache)


def test_ids_and_text(tokenizer: ChatGLM6BTokenizer, recording: Recording) -> None:
    for case in recording.recorded["tokenizer"]:
        assert tokenizer.encode(case["text"]) == case["ids"]
        plain = tokenizer.encode(case["text"], add_special_tokens=False)
        assert plain == case["ids_no_special"]
        assert tokenizer.decode(plain) == case["decoded_no_special"]
    for case in (*recording.recorded["tokenizer"], *recording.recorded["decode"]):
        assert tokenizer.decode(case["ids"]) == case["decoded"]
        people = tokenizer.decode(case["ids"], skip_special_tokens=True)
        assert people == case["decoded_skip_special"]
    for case in recording.recorded["tokenizer_pair"]:
        pair = [tokenizer.encode(case[name], add_special_tokens=False) for name in ("a", "b")]
        assert tokenizer.build_inputs_with_special_tokens(*pair) == case["ids"]


def test_conversations(tokenizer: ChatGLM6BTokenizer, recording: Recording) -> None:
    for case in recording.recorded["chat"]:
        prompt = tokenizer.chat_prompt(case["query"], [tuple(each) for each in case["history"]])
        assert prompt == case["prompt"]
        assert tokenizer.encode(prompt) == case["ids"]
    for case in recording.recorded["process_response"]:
        assert reply_text(case["in"]) == case["out"]
