"""Where Baichuan2 looks: causality, and a bias that grows with distance (ALiBi).

Travels with every model directory. Source of the slopes: Press et al. 2022, "Train Short, Test
Long", section 3, and for head counts that are no powers of two the published code of the paper.
"""

import torch
from transformers.cache_utils import Cache


def alibi_slopes(heads: int) -> list[float]:
    """One slope a head, in the order of the heads.

    A power of two, n: 2 ** (-8 i / n) for i from 1 on. Else those of the next smaller power of two,
    then every second of the next larger one's.
    """
    power = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    return slopes if power == heads else slopes + alibi_slopes(2 * power)[::2][: heads - power]


def alibi_mask(
    heads: int,
    inputs_embeds: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cache: Cache | None,
) -> torch.Tensor:
    """What is added to the scores of the new tokens, ``[B or 1, heads, T, keys]``.

    For a visible key the slope times (key - query), else the dtype's lowest value: a row of padding
    then sees everything alike, and stays finite. The published code adds the slope times the key
    alone, the same to softmax; in 16 bits that puts scores of long prompts on a grid of integers.

    Args:
        heads: of the model.
        inputs_embeds: of the new tokens, ``[B, T, any]``; the mask has its dtype and device.
        attention_mask: ``[B, keys]``, 1 for real tokens; or a ready mask of four dimensions.
        cache: knows how many keys there are.
    """
    if attention_mask is not None and attention_mask.ndim == 4:
        return attention_mask
    device, dtype, length = inputs_embeds.device, inputs_embeds.dtype, inputs_embeds.shape[1]
    seen: int | torch.Tensor = 0
    keys, first = length, 0
    if cache is not None:
        seen = cache.get_seq_length()
        keys, first = cache.get_mask_sizes(length, 0)
    query = (torch.arange(length, device=device) + seen).unsqueeze(1)
    key = torch.arange(first, first + keys, device=device).unsqueeze(0)
    visible = (key <= query)[None, None]
    if attention_mask is not None:
        real = torch.zeros(len(attention_mask), keys, dtype=torch.bool, device=device)
        given = attention_mask[:, first : first + keys].bool()
        real[:, : given.shape[1]] = given
        visible = visible & real[:, None, None, :]
    slopes = torch.tensor(alibi_slopes(heads), dtype=torch.float32, device=device)
    bias = slopes.view(-1, 1, 1) * (key - query).float()
    return torch.where(visible, bias.to(dtype), torch.finfo(dtype).min)
