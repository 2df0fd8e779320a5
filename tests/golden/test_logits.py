"""Logits of the transformers model against upstream's, through the real conversion."""

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

import kit.models.spark  # noqa: F401  (registers Spark with the Auto classes)
from kit.models.spark.mask_spark import in_block_window

FP32_TOLERANCE = 1e-4
"""Correct variants differ by at most 2.4e-5; a wrong LayerNorm eps by 8e-4."""
BF16_TOLERANCE = 0.75
"""Rounding in another place moves single bf16 logits by 0.45; a wrong layout by more than 3."""


def logits(model, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(ids[None]).logits[0].float()


@pytest.fixture(params=["sdpa", "eager"])
def fp32(request, golden, converted):
    return AutoModelForCausalLM.from_pretrained(
        converted(golden, "fp32"), attn_implementation=request.param
    )


@pytest.fixture
def bf16(golden, converted):
    return AutoModelForCausalLM.from_pretrained(converted(golden, "bf16"))


def prompts(recorded: dict[str, torch.Tensor]) -> list[str]:
    numbers = [name.removeprefix("ids_") for name in recorded if name.startswith("ids_")]
    return [number for number in numbers if f"logits_{number}" in recorded]


def test_fp32(golden, fp32):
    recorded = golden.tensors("logits_fp32.safetensors")
    assert prompts(recorded)
    for number in prompts(recorded):
        ours = logits(fp32, recorded[f"ids_{number}"])
        assert (ours - recorded[f"logits_{number}"]).abs().max() < FP32_TOLERANCE


def test_fp32_arithmetic_on_bf16_weights(golden, converted):
    recorded = golden.tensors("logits_fp32_bf16weights.safetensors")
    model = AutoModelForCausalLM.from_pretrained(converted(golden, "bf16"), dtype=torch.float32)
    for number in prompts(recorded):
        ours = logits(model, recorded[f"ids_{number}"])
        assert (ours - recorded[f"logits_{number}"]).abs().max() < FP32_TOLERANCE


def test_bf16(golden, bf16):
    recorded = golden.tensors("logits_bf16.safetensors")
    assert bf16.dtype == torch.bfloat16
    for number in prompts(recorded):
        ours = logits(bf16, recorded[f"ids_{number}"])
        assert (ours - recorded[f"logits_{number}"]).abs().max() < BF16_TOLERANCE


def test_token_by_token(golden, fp32):
    recorded = golden.tensors("logits_fp32.safetensors")
    name = next((name for name in recorded if name.startswith("inc_logits_")), None)
    if name is None:
        pytest.skip("no incremental logits here")
    ids = recorded[f"ids_{name.removeprefix('inc_logits_')}"]
    expected = recorded[name]
    cache = DynamicCache(config=fp32.config)
    with torch.inference_mode():
        steps = [fp32(ids[None, :5], past_key_values=cache).logits[0]]
        steps += [fp32(one[None, None], past_key_values=cache).logits[0] for one in ids[5:]]
    ours = torch.cat(steps)[-len(expected) :]
    assert (ours - expected).abs().max() < FP32_TOLERANCE


@pytest.mark.parametrize("chunk", [None, 100])
def test_beyond_the_window(golden, fp32, chunk):
    recorded = golden.tensors("long_fp32.safetensors")
    ids = recorded["ids"][None]
    cache = DynamicCache(config=fp32.config)
    with torch.inference_mode():
        pieces = ids.split(chunk or ids.shape[1], dim=1)
        ours = torch.cat([fp32(piece, past_key_values=cache).logits[0] for piece in pieces])
    ours = ours[recorded["positions"]]
    assert (ours - recorded["logits"]).abs().max() < FP32_TOLERANCE


def test_exact_window_is_another_model_beyond_the_window(golden, converted):
    recorded = golden.tensors("long_fp32.safetensors")
    exact = AutoModelForCausalLM.from_pretrained(converted(golden, "fp32"), window="exact")
    difference = (logits(exact, recorded["ids"])[recorded["positions"]] - recorded["logits"]).abs()
    inside = recorded["positions"] < golden.config["localsize"]
    assert difference[inside].max() < FP32_TOLERANCE
    assert difference[~inside].max() > 1


def test_block_window_row_by_row(golden):
    recorded = golden.tensors("long_fp32.safetensors")
    first, count = recorded["first_visible_key"], recorded["visible_count"]
    positions = torch.arange(len(first))
    query, key = positions[:, None], positions[None, :]
    visible = in_block_window(query, key, golden.config["localsize"]) & (key <= query)
    assert torch.equal(visible.int().argmax(dim=1), first.long())
    assert torch.equal(visible.sum(dim=1), count.long())
