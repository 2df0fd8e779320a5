"""A Spark model in upstream's own format: what ``kit.checkpoint`` reads, the other way round.

For making checkpoints: the embedded demo, and test data.
"""

from typing import Any

import torch

from kit.models.spark.configuration_spark import SparkConfig
from kit.models.spark.modeling_spark import SparkForCausalLM


def upstream_state(model: SparkForCausalLM) -> dict[str, Any]:
    """What upstream saves as ``mp_rank_00_model_states.pt``, in the model's dtype.

    Query, key and value are one matrix ``[3h, h]``; ``dense_h_to_4h`` ``[2f, h]`` takes its rows
    alternately from ``gate_proj`` (even) and ``up_proj`` (odd). The tied head is not stored.
    """
    weights = model.model.state_dict()
    encoder: dict[str, torch.Tensor] = {}
    for kind in ("weight", "bias"):
        for index in range(model.config.num_hidden_layers):
            encoder |= _layer(weights, index, kind)
        encoder[f"final_layernorm.{kind}"] = weights[f"norm.{kind}"]
    embedding = {"word_embeddings": {"weight": weights["embed_tokens.weight"]}}
    return {"module": {"language_model": {"embedding": embedding, "encoder": encoder}}}


def _layer(weights: dict[str, torch.Tensor], index: int, kind: str) -> dict[str, torch.Tensor]:
    def ours(name: str) -> torch.Tensor:
        return weights[f"layers.{index}.{name}.{kind}"]

    qkv = [ours(f"self_attn.{name}_proj") for name in "qkv"]
    gated = [ours(f"mlp.{name}_proj") for name in ("gate", "up")]
    theirs = {
        "input_layernorm": ours("input_layernorm"),
        "self_attention.query_key_value": torch.cat(qkv),
        "self_attention.dense": ours("self_attn.o_proj"),
        "post_attention_layernorm": ours("post_attention_layernorm"),
        "mlp.dense_h_to_4h": torch.stack(gated, dim=1).flatten(0, 1),
        "mlp.dense_4h_to_h": ours("mlp.down_proj"),
    }
    return {f"layers.{index}.{name}.{kind}": tensor for name, tensor in theirs.items()}


def upstream_arguments(config: SparkConfig) -> dict[str, int | float | None]:
    """The dimensions by the names of upstream's command-line arguments."""
    rope: dict[str, Any] = config.rope_parameters or {}
    return {
        "num_layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "ffn_hidden_size": config.intermediate_size,
        "num_attention_heads": config.num_attention_heads,
        "vocab_size": config.vocab_size,
        "seq_length": config.max_position_embeddings,
        "max_position_embeddings": config.max_position_embeddings,
        "localsize": config.sliding_window,
        "layernorm_epsilon": config.layer_norm_eps,
        "rope_base": int(rope["rope_theta"]),
    }
