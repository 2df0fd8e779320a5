"""What a query may see: causality and the local window. Travels with every model directory."""

from collections.abc import Callable
from typing import Any

import torch
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.utils import logging

from .cache_spark import CACHE_NAME
from .configuration_spark import KEY_BLOCK, QUERY_BLOCK, SparkConfig

logger = logging.get_logger(__name__)

TAKES_MASKS = ("eager", "sdpa", "flex_attention")
"""The attention implementations that take our mask. Others (flash kernels, vLLM's and SGLang's own
layers, paged ones) make their own, from ``sliding_window`` alone."""


def warn_of_exact_window(config: SparkConfig) -> None:
    """Say, once, that the attention that was chosen does not know upstream's block window."""
    window, attention = config.sliding_window, config._attn_implementation
    if (
        config.window == "block"
        and window is not None
        and window < config.max_position_embeddings
        and attention not in (*TAKES_MASKS, None)
    ):
        logger.warning_once(
            f"attention {attention!r} knows only the exact window: beyond {window} tokens the "
            "output differs from upstream's inference, whose window moves in blocks. Use sdpa, or "
            "set window='exact' in config.json to have the same everywhere."
        )


def in_block_window(query: torch.Tensor, key: torch.Tensor, window: int) -> torch.Tensor:
    """Whether key positions lie in the block-granular window of query positions (causality apart).

    Upstream's inference masks whole blocks of 16 queries by 128 keys: key j is in the window of
    query p iff 128*floor(j/128) > 16*floor(p/16) - window. Shapes broadcast; integers in, bool out.
    """
    return (key // KEY_BLOCK) * KEY_BLOCK > (query // QUERY_BLOCK) * QUERY_BLOCK - window


def spark_mask(
    config: SparkConfig,
    inputs_embeds: torch.Tensor,
    attention_mask: torch.Tensor | None,
    past_key_values: Cache | None,
    position_ids: torch.Tensor | None,
) -> Any:
    """The mask in the form that the chosen attention kernel wants; 4-D masks pass unchanged.

    Args:
        config: names the kernel and the window.
        inputs_embeds: of the new tokens, ``[B, T, any]``.
        attention_mask: ``[B, keys]``, 1 for real tokens; or a ready mask ``[B, 1, T, keys]``.
        past_key_values: the cache, which knows how many keys there are.
        position_ids: of the new tokens, ``[B, T]``.
    """
    sliding = "sliding_attention" in config.layer_types
    create = create_sliding_window_causal_mask if sliding else create_causal_mask
    named_cache: dict[str, Any] = {CACHE_NAME: past_key_values}
    return create(
        config=config,
        inputs_embeds=inputs_embeds,
        attention_mask=attention_mask,
        **named_cache,
        position_ids=position_ids,
        and_mask_function=block_window(config, inputs_embeds, attention_mask, past_key_values),
    )


def block_window(
    config: SparkConfig,
    inputs_embeds: torch.Tensor,
    attention_mask: torch.Tensor | None,
    past_key_values: Cache | None,
) -> Callable[..., torch.Tensor] | None:
    """The block window as a mask function of transformers, or None while it hides nothing."""
    window = config.sliding_window
    if window is None or config.window != "block":
        return None
    seen = past_key_values.get_seq_length() if past_key_values is not None else 0
    if isinstance(seen, int) and seen + inputs_embeds.shape[1] <= window:
        return None
    if config._attn_implementation not in TAKES_MASKS:
        warn_of_exact_window(config)
        return None
    padding = torch.zeros(len(inputs_embeds), dtype=torch.long, device=inputs_embeds.device)
    if attention_mask is not None and attention_mask.ndim == 2:
        padding = (attention_mask.cumsum(-1) == 0).sum(-1)

    def visible(batch: Any, head: Any, query: Any, key: Any) -> torch.Tensor:
        return in_block_window(query - padding[batch], key - padding[batch], window)

    return visible
