"""The converted tensors of upstream's own checkpoint files, against torch's reading of them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kit.errors import KitError
from kit.weights.convert.convert import convert_checkpoint

CHECKPOINT = "mp_rank_00_model_states.pt"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_bit_is_upstreams(golden, converted: Callable[..., Path], precision: str) -> None:
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    state = torch.load(golden.path("ckpt") / CHECKPOINT)["module"]["language_model"]
    upstream = {name: tensor.to(dtype) for name, tensor in state["encoder"].items()}
    folder = converted(golden, precision)
    ours = {n: t for f in folder.glob("*.safetensors") for n, t in load_file(f).items()}
    table = state["embedding"]["word_embeddings"]["weight"].to(dtype)
    assert torch.equal(ours.pop("model.embed_tokens.weight"), table)
    for kind in ("weight", "bias"):
        assert torch.equal(ours.pop(f"model.norm.{kind}"), upstream.pop(f"final_layernorm.{kind}"))
        for layer in range(golden.config["num_layers"]):
            here, there = f"model.layers.{layer}.", f"layers.{layer}."
            qkv = upstream.pop(f"{there}self_attention.query_key_value.{kind}")
            parts = [ours.pop(f"{here}self_attn.{letter}_proj.{kind}") for letter in "qkv"]
            assert torch.equal(torch.cat(parts), qkv)
            gated = upstream.pop(f"{there}mlp.dense_h_to_4h.{kind}")
            pairs = [ours.pop(f"{here}mlp.{name}_proj.{kind}") for name in ("gate", "up")]
            assert torch.equal(torch.stack(pairs, 1).flatten(0, 1), gated)
            for name, old in {
                "input_layernorm": "input_layernorm",
                "post_attention_layernorm": "post_attention_layernorm",
                "self_attn.o_proj": "self_attention.dense",
                "mlp.down_proj": "mlp.dense_4h_to_h",
            }.items():
                assert torch.equal(
                    ours.pop(f"{here}{name}.{kind}"), upstream.pop(f"{there}{old}.{kind}")
                )
    assert not ours
    assert not upstream


def test_an_adapter_alone_is_no_checkpoint(golden, tmp_path: Path) -> None:
    with pytest.raises(KitError, match="lacks embedding") as caught:
        convert_checkpoint(
            golden.path("lora"), tmp_path / "out", tokenizer=golden.path("tokenizer")
        )
    assert "LoRA" in caught.value.hint
