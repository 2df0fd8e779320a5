"""Spark's forward pass in plain torch, on tensors as upstream names and lays them out.

Written from the architecture's description; nothing here uses the kit. It shows that a converted
model computes what its checkpoint means, for shapes of which there is no golden recording.
"""

from typing import Any

import torch
from torch.nn import functional

from tests.shapes import State, parts

Tensors = dict[str, torch.Tensor]


def reference_logits(state: State, arguments: dict[str, Any], ids: torch.Tensor) -> torch.Tensor:
    """Logits ``[tokens, vocabulary]`` in fp32 for the token ids of one sequence.

    Args:
        state: upstream's checkpoint.
        arguments: upstream's, of ``config.json``.
        ids: int64 ``[tokens]``.
    """
    encoder, table = parts(state)
    heads, eps = arguments["num_attention_heads"], arguments["layernorm_epsilon"]
    mask = _visible(len(ids), arguments["localsize"])
    cos, sin = _rotary(len(ids), table.shape[1] // heads, arguments["rope_base"])
    x = table[ids]
    for layer in range(arguments["num_layers"]):
        here = {
            name.removeprefix(f"layers.{layer}."): tensor
            for name, tensor in encoder.items()
            if name.startswith(f"layers.{layer}.")
        }
        normed = _norm(here, "input_layernorm", x, eps)
        x = x + _attention(here, normed, heads, cos, sin, mask)
        up = _linear(here, "mlp.dense_h_to_4h", _norm(here, "post_attention_layernorm", x, eps))
        gated = functional.gelu(up[:, 0::2]) * up[:, 1::2]
        x = x + _linear(here, "mlp.dense_4h_to_h", gated)
    return _norm(encoder, "final_layernorm", x, eps) @ table.T


def _visible(tokens: int, window: int | None) -> torch.Tensor:
    """Which keys (columns) each query (row) sees: blocks of 128 keys, of 16 queries."""
    query, key = torch.arange(tokens)[:, None], torch.arange(tokens)[None]
    causal = key <= query
    return causal if not window else causal & (128 * (key // 128) > 16 * (query // 16) - window)


def _rotary(tokens: int, head_dim: int, base: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine ``[tokens, 1, head_dim]``."""
    frequencies = 1.0 / base ** (torch.arange(0, head_dim, 2).float() / head_dim)
    angles = torch.arange(tokens).float()[:, None] * frequencies
    angles = torch.cat([angles, angles], -1)[:, None]
    return angles.cos(), angles.sin()


def _attention(
    here: Tensors,
    x: torch.Tensor,
    heads: int,
    cos: torch.Tensor,
    sin: torch.Tensor,
    mask: torch.Tensor,
) -> torch.Tensor:
    tokens, hidden = x.shape
    query, key, value = (
        third.view(tokens, heads, hidden // heads)
        for third in _linear(here, "self_attention.query_key_value", x).chunk(3, -1)
    )

    def rotate(t: torch.Tensor) -> torch.Tensor:
        first, second = t.chunk(2, -1)
        return t * cos + torch.cat([-second, first], -1) * sin

    query = rotate(query) / (hidden // heads) ** 0.5
    scores = torch.einsum("qhd,khd->hqk", query, rotate(key)).masked_fill(~mask, -10000.0)
    context = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).reshape(tokens, hidden)
    return _linear(here, "self_attention.dense", context)


def _linear(here: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ here[f"{name}.weight"].T + here[f"{name}.bias"]


def _norm(here: Tensors, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
    weight, bias = here[f"{name}.weight"], here[f"{name}.bias"]
    return functional.layer_norm(x, x.shape[-1:], weight, bias, eps)
