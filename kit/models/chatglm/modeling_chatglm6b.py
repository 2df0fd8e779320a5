"""ChatGLM-6B (the first version) in transformers' conventions: the one implementation of the model.

LayerNorm before each half block, whose output (not its input) is the residual, scaled; rotary
positions of two kinds, each on half of a head's channels; a plain tanh-GELU MLP; attention in both
directions over the prompt. This file travels with every converted model directory, so it imports
nothing but torch, transformers and its siblings.
"""

from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .cache_chatglm6b import CACHE_NAME, given_cache
from .configuration_chatglm6b import ChatGLM6BConfig
from .prefix_chatglm6b import Prefix

_PREFIX = "chatglm_prefix"
"""The cache's attribute that keeps what the prompt looked like."""


def rotary_tables(
    positions: torch.Tensor, head_dim: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines ``[B, 1, T, head_dim]`` for positions and blocks ``[2, B, T]``.

    The first half of a head's channels turns by the position, the other by the block. The published
    frequencies are rounded to fp16 whatever the model's dtype; in fp16 the angles are, too.
    """
    half = head_dim // 2
    exponents = torch.arange(0, half, 2, device=positions.device, dtype=torch.float32) / half
    frequencies = (10000.0**-exponents).half()
    if dtype == torch.float16:
        angles = (positions.half().unsqueeze(-1) * frequencies).float()
    else:
        angles = positions.float().unsqueeze(-1) * frequencies.float()
    angles = torch.cat([angles, angles], -1)
    both = torch.cat([angles[0], angles[1]], -1).unsqueeze(1)
    return both.cos().to(dtype), both.sin().to(dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn ``[B, heads, T, head_dim]``: in each half of the channels, quarter against quarter."""
    a, b, c, d = x.chunk(4, -1)
    return x * cos + torch.cat([-b, a, -d, c], -1) * sin


class ChatGLM6BMLP(nn.Module):
    """down(gelu(up(x))), with the tanh form of GELU."""

    def __init__(self, config: ChatGLM6BConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.up_proj(x)))


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
    """Attention spelled out, scores and softmax in fp32.

    query, key, value ``[B, heads, T, d]``; attention_mask additive ``[B, 1, Tq, Tk]``.
    Returns the context ``[B, Tq, heads, d]`` and the probabilities ``[B, heads, Tq, Tk]``.
    """
    scores = torch.matmul(query.float() * scaling, key.float().transpose(2, 3))
    if attention_mask is not None:
        scores = scores + attention_mask.float()
    weights = nn.functional.softmax(scores, dim=-1).to(value.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class ChatGLM6BAttention(nn.Module):
    """Multi-head attention through transformers' attention interface. Keys are cached rotated.

    The published code divides the scores by the layer's number and multiplies them again, which
    keeps fp16 in range; kernels that compute scores in fp32 need neither.
    """

    def __init__(self, config: ChatGLM6BConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = 1
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        width = config.num_attention_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, width)
        self.k_proj = nn.Linear(config.hidden_size, width)
        self.v_proj = nn.Linear(config.hidden_size, width)
        self.o_proj = nn.Linear(width, config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        cache = given_cache(past_key_values, cache, kwargs)
        shape = hidden_states.shape[:-1]
        heads = (*shape, -1, self.head_dim)
        query = rotate(self.q_proj(hidden_states).view(heads).transpose(1, 2), *position_embeddings)
        key = rotate(self.k_proj(hidden_states).view(heads).transpose(1, 2), *position_embeddings)
        value = self.v_proj(hidden_states).view(heads).transpose(1, 2)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention
        )
        context, weights = attention(
            self, query, key, value, attention_mask, dropout=0.0, scaling=self.scaling, **kwargs
        )
        return self.o_proj(context.reshape(*shape, -1).contiguous()), weights


class ChatGLM6BDecoderLayer(GradientCheckpointingLayer):
    """y = LN(x), x = a y + attention(y); z = LN(x), x = a z + MLP(z)."""

    def __init__(self, config: ChatGLM6BConfig, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = ChatGLM6BAttention(config, layer_idx)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = ChatGLM6BMLP(config)
        self.residual_scale = (2 * config.residual_layers) ** 0.5

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        normed = self.input_layernorm(hidden_states)
        attended, _ = self.self_attn(normed, **kwargs)
        normed = self.post_attention_layernorm(normed * self.residual_scale + attended)
        return normed * self.residual_scale + self.mlp(normed)


class ChatGLM6BPreTrainedModel(PreTrainedModel):
    """What transformers needs to know of every ChatGLM-6B model."""

    config: ChatGLM6BConfig
    config_class = ChatGLM6BConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["ChatGLM6BDecoderLayer"]  # noqa: RUF012  (transformers declares it so)
    _skip_keys_device_placement = ["past_key_values", "cache"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": ChatGLM6BDecoderLayer,
        "attentions": ChatGLM6BAttention,
    }


class ChatGLM6BModel(ChatGLM6BPreTrainedModel):
    """Token ids to final hidden states ``[B, T, hidden_size]``."""

    def __init__(self, config: ChatGLM6BConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            [ChatGLM6BDecoderLayer(config, index) for index in range(config.num_hidden_layers)]
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """input_ids ``[B, T]``: whole prompts first, ``<sop>`` included, since all of the context
        sees all of it; then, with the same cache, the answers' tokens.

        attention_mask is ``[B, keys]``, 0 for padding, which is on the left.

        Raises:
            ValueError: a prompt lacks ``<sop>`` or a mask token; or a cache comes from elsewhere.
            TypeError: a cache is given twice, or by a name that nobody reads.
        """
        cache = given_cache(past_key_values, cache, kwargs)
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        seen = int(cache.get_seq_length()) if cache is not None else 0
        prefix = getattr(cache, _PREFIX, None) if seen else None
        if prefix is None:
            if seen:
                raise ValueError("this cache was not filled by a prompt of ChatGLM-6B")
            prefix = Prefix.of(input_ids, attention_mask, self.config)
            if cache is not None:
                setattr(cache, _PREFIX, prefix)
        hidden_states = self.embed_tokens(input_ids)
        length, keys = input_ids.shape[1], seen + input_ids.shape[1]
        if cache is not None:
            keys, _ = cache.get_mask_sizes(length, 0)
        mask = prefix.mask(seen, length, keys, hidden_states.dtype)
        tables = rotary_tables(
            prefix.positions(seen, length), self.config.head_dim, hidden_states.dtype
        )
        kwargs.pop("position_ids", None)  # generate's, which counts from the left
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                attention_mask=mask,
                position_embeddings=tables,
                **{CACHE_NAME: cache},
                **kwargs,
            )
        kept: dict[str, Any] = {CACHE_NAME: cache if use_cache else None}
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), **kept)


class ChatGLM6BForConditionalGeneration(ChatGLM6BPreTrainedModel, GenerationMixin):
    """The language model. The published head is the embedding table."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: ChatGLM6BConfig) -> None:
        super().__init__(config)
        self.model = ChatGLM6BModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits ``[B, T, vocab]`` in the model's dtype; logits_to_keep=n gives the last n of T."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            use_cache=use_cache,
            **{CACHE_NAME: given_cache(past_key_values, cache, kwargs)},
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden = outputs.last_hidden_state[:, kept, :].clone(memory_format=torch.contiguous_format)
        logits = self.lm_head(hidden)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE_NAME: outputs.get(CACHE_NAME)},
        )

    @staticmethod
    def create_masks_for_generate(
        config: ChatGLM6BConfig,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **_: Any,
    ) -> Any:
        """The padding alone: what the rest of the mask follows from is known with the prompt."""
        return attention_mask


__all__ = ["ChatGLM6BForConditionalGeneration", "ChatGLM6BModel", "ChatGLM6BPreTrainedModel"]
