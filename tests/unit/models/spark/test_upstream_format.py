"""Saving in upstream's format is the inverse of converting from it."""

import json
from pathlib import Path

import pytest
import torch

from kit.models.spark import SparkConfig, SparkForCausalLM
from kit.models.spark.upstream_format import upstream_arguments, upstream_state
from kit.settings import bundled
from kit.weights.convert.convert import convert_checkpoint


def test_a_saved_model_comes_back_from_conversion(tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = SparkConfig(
        vocab_size=1600,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=6,
        max_position_embeddings=512,
        sliding_window=128,
        layer_norm_eps=1e-6,
    )
    model = SparkForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    source = tmp_path / "source"
    source.mkdir()
    torch.save(upstream_state(model), source / "mp_rank_00_model_states.pt")
    (source / "config.json").write_text(json.dumps(upstream_arguments(config)))

    tokenizer = bundled("demo") / "tokenizer"
    convert_checkpoint(source, tmp_path / "out", precision="fp32", tokenizer=tokenizer)
    again = SparkForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)

    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    for name in ("num_attention_heads", "max_position_embeddings", "sliding_window"):
        assert getattr(again.config, name) == getattr(config, name)
    assert again.config.layer_norm_eps == pytest.approx(1e-6)
