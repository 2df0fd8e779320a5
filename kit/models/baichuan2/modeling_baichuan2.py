"""Baichuan2-13B in transformers' conventions: the one implementation of the model.

A decoder with RMSNorm before each half block, ALiBi in place of position embeddings, a SiLU-gated
MLP, no bias anywhere, and a head whose rows have unit length. This file travels with every
converted model directory, so it imports nothing but torch, transformers and its siblings.
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

from .alibi_baichuan2 import alibi_mask
from .cache_baichuan2 import CACHE_NAME, given_cache
from .configuration_baichuan2 import Baichuan2Config


class Baichuan2RMSNorm(nn.Module):
    """x / rms(x) in fp32, rounded to the weight's dtype before it is multiplied by the weight."""

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return wide.to(self.weight.dtype) * self.weight


class Baichuan2MLP(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: Baichuan2Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


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

    query, key, value ``[B, heads, T, d]``; attention_mask additive ``[B, heads, Tq, Tk]``.
    Returns the context ``[B, Tq, heads, d]`` and the probabilities ``[B, heads, Tq, Tk]``.
    """
    scores = torch.matmul(query.float() * scaling, key.float().transpose(2, 3))
    if attention_mask is not None:
        scores = scores + attention_mask.float()
    weights = nn.functional.softmax(scores, dim=-1).to(value.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class Baichuan2Attention(nn.Module):
    """Multi-head attention through transformers' attention interface. Keys have no positions."""

    def __init__(self, config: Baichuan2Config, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = 1
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        width = config.num_attention_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        cache = given_cache(past_key_values, cache, kwargs)
        shape = hidden_states.shape[:-1]
        heads = (*shape, -1, self.head_dim)
        query = self.q_proj(hidden_states).view(heads).transpose(1, 2)
        key = self.k_proj(hidden_states).view(heads).transpose(1, 2)
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


class Baichuan2DecoderLayer(GradientCheckpointingLayer):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, config: Baichuan2Config, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = Baichuan2RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Baichuan2Attention(config, layer_idx)
        self.post_attention_layernorm = Baichuan2RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = Baichuan2MLP(config)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class NormHead(nn.Linear):
    """A head whose rows count by their direction alone: logits are divided by the rows' lengths.

    The same as normalising the rows, without a second copy of them.
    """

    def __init__(self, hidden_size: int, vocab_size: int) -> None:
        super().__init__(hidden_size, vocab_size, bias=False)
        self._lengths: tuple[int, torch.Tensor] | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) / self.lengths().to(x.dtype)

    def lengths(self) -> torch.Tensor:
        """Of every row, ``[vocab]``, fp32; at least 1e-12, so that a row of zeros stays one.

        Kept until the weight changes: it would be read whole at every step.
        """
        if self.weight.requires_grad and torch.is_grad_enabled():
            return self.weight.float().norm(dim=-1).clamp_min(1e-12)
        version = self.weight._version
        if self._lengths is None or self._lengths[0] != version:
            with torch.no_grad():
                found = torch.linalg.vector_norm(self.weight, dim=-1, dtype=torch.float32)
            self._lengths = (version, found.clamp_min(1e-12))
        return self._lengths[1]


class Baichuan2PreTrainedModel(PreTrainedModel):
    """What transformers needs to know of every Baichuan2-13B model."""

    config: Baichuan2Config
    config_class = Baichuan2Config
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Baichuan2DecoderLayer"]  # noqa: RUF012  (transformers declares it so)
    _skip_keys_device_placement = ["past_key_values", "cache"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": Baichuan2DecoderLayer,
        "attentions": Baichuan2Attention,
    }


class Baichuan2Model(Baichuan2PreTrainedModel):
    """Token ids to final hidden states ``[B, T, hidden_size]``."""

    def __init__(self, config: Baichuan2Config) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            [Baichuan2DecoderLayer(config, index) for index in range(config.num_hidden_layers)]
        )
        self.norm = Baichuan2RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """input_ids ``[B, T]`` or inputs_embeds ``[B, T, hidden_size]``.

        attention_mask is ``[B, keys]`` (1 for real tokens), or a ready one ``[B, heads, T, keys]``.

        Raises:
            ValueError: both or none of input_ids and inputs_embeds are given.
            TypeError: a cache is given twice, or by a name that nobody reads.
        """
        cache = given_cache(past_key_values, cache, kwargs)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        heads = self.config.num_attention_heads
        mask = alibi_mask(heads, inputs_embeds, attention_mask, cache)
        hidden_states = inputs_embeds
        for layer in self.layers:
            hidden_states = layer(
                hidden_states, attention_mask=mask, **{CACHE_NAME: cache}, **kwargs
            )
        kept: dict[str, Any] = {CACHE_NAME: cache if use_cache else None}
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), **kept)


class Baichuan2ForCausalLM(Baichuan2PreTrainedModel, GenerationMixin):
    """The language model."""

    def __init__(self, config: Baichuan2Config) -> None:
        super().__init__(config)
        self.model = Baichuan2Model(config)
        self.vocab_size = config.vocab_size
        self.lm_head = NormHead(config.hidden_size, config.vocab_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
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
            inputs_embeds=inputs_embeds,
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
        config: Baichuan2Config,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        **others: Any,
    ) -> Any:
        """The mask that ``generate`` makes beforehand for compiled steps with a static cache."""
        cache = given_cache(past_key_values, cache, others)
        return alibi_mask(config.num_attention_heads, inputs_embeds, attention_mask, cache)


__all__ = ["Baichuan2ForCausalLM", "Baichuan2Model", "Baichuan2PreTrainedModel"]
