"""torch's scaled_dot_product_attention as it goes on a GPU, whichever build of torch is there.

A build without CUDA knows none of a GPU's kernels and would spell the attention out, with all
scores in memory. The choice, and what is done to a mask before its kernel, are those of
aten/src/ATen/native/transformers/attention.cpp and cuda/sdp_utils.cpp.
"""

import torch

aten = torch.ops.aten
_MASK_ALIGNMENT = 8
"""The memory-efficient kernel takes masks whose rows start at multiples of so many numbers."""


def attention_on_gpu(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """query ``[B, heads, T, d]``, key and value ``[B, heads, keys, d]``; returns as ``query``.

    Flash kernels take no mask and 16 bits; everything else goes to the memory-efficient one.
    """
    out: torch.Tensor
    if attn_mask is None and query.dtype in (torch.float16, torch.bfloat16):
        flash = aten._scaled_dot_product_flash_attention.default
        out = flash(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
        return out
    bias = None if attn_mask is None else _as_bias(attn_mask, query, key)
    efficient = aten._scaled_dot_product_efficient_attention.default
    out = efficient(query, key, value, bias, False, dropout_p, is_causal, scale=scale)[0]
    return out


def _as_bias(mask: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """The mask as numbers to be added, its rows aligned."""
    if mask.dtype == torch.bool:
        zero, hidden = (
            torch.scalar_tensor(value, dtype=query.dtype, device=mask.device)
            for value in (0.0, -torch.inf)
        )
        mask = torch.where(mask, zero, hidden)
    keys = mask.shape[-1]
    if lacking := -keys % _MASK_ALIGNMENT:
        mask = torch.nn.functional.pad(mask, (0, lacking))[..., :keys]
    return mask.expand(*query.shape[:-1], key.shape[-2])
