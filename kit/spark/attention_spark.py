"""Spark's attention arithmetic: the block-granular window, rotary embedding, eager attention.

Travels with every model directory, so it imports nothing but torch.
"""

from typing import Any

import torch
from torch import nn

QUERY_BLOCK, KEY_BLOCK = 16, 128


def in_block_window(query: torch.Tensor, key: torch.Tensor, window: int) -> torch.Tensor:
    """Whether key positions lie in the block-granular window of query positions (causality apart).

    Upstream's inference masks whole blocks of 16 queries by 128 keys: key j is in the window of
    query p iff 128*floor(j/128) > 16*floor(p/16) - window. Shapes broadcast; integers in, bool out.
    """
    return (key // KEY_BLOCK) * KEY_BLOCK > (query // QUERY_BLOCK) * QUERY_BLOCK - window


def rotate_half_split(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of x ``[..., T, d]``: element i turns with i + d/2. All in x's dtype."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


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
