"""Spark's attention spelled out. Travels with every model directory."""

from typing import Any

import torch
from torch import nn


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention spelled out, scores and softmax in fp32 as upstream has them.

    query, key, value ``[B, heads, T, d]``; attention_mask additive ``[B, 1, Tq, Tk]``.
    Returns the context ``[B, Tq, heads, d]`` and the probabilities ``[B, heads, Tq, Tk]``.
    """
    scores = torch.matmul(query.float() * scaling, key.float().transpose(2, 3))
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1).to(value.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights
