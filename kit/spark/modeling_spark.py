"""iFlytekSpark in transformers' conventions: the one implementation of the model.

A decoder with LayerNorm before each half block, rotary positions, exact-GELU gated MLP, a bias on
every linear layer, a tied head, and a local attention window. This file travels with every
converted model directory, so it imports nothing but torch, transformers and its siblings.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import can_return_tuple, logging
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .attention_spark import eager_attention, in_block_window, rotate_half_split
from .configuration_spark import SparkConfig
from .generation_spark import SparkGenerationMixin

logger = logging.get_logger(__name__)


class SparkRotaryEmbedding(nn.Module):
    """cos and sin ``[B, T, head_dim]`` of positions ``[B, T]``, computed in fp32, in x's dtype."""

    inv_freq: torch.Tensor
    original_inv_freq: torch.Tensor

    def __init__(self, config: SparkConfig, device: torch.device | None = None) -> None:
        super().__init__()
        self.config = config
        self.max_seq_len_cached = config.max_position_embeddings
        self.original_max_seq_len = config.max_position_embeddings
        self.rope_type = config.rope_parameters["rope_type"]
        frequencies: Callable[..., Any] = self.compute_default_rope_parameters
        if self.rope_type != "default":
            frequencies = ROPE_INIT_FUNCTIONS[self.rope_type]
        inv_freq, self.attention_scaling = frequencies(config, device)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(
        config: SparkConfig, device: torch.device | None = None, seq_len: int | None = None
    ) -> tuple[torch.Tensor, float]:
        """Inverse frequencies base^(-2j/d), fp32 ``[head_dim / 2]``, and the scaling 1.0."""
        dim = config.head_dim
        exponents = torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim
        return 1.0 / config.rope_parameters["rope_theta"] ** exponents, 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def forward(
        self, x: torch.Tensor, position_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        angles = position_ids[..., None].float() * self.inv_freq.to(x.device, torch.float32)
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return cos.to(x.dtype), sin.to(x.dtype)


class SparkMLP(nn.Module):
    """Gated MLP: the even channels of upstream's interleaved projection are the GELU's input."""

    def __init__(self, config: SparkConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class SparkAttention(nn.Module):
    """Multi-head attention through transformers' attention interface. Keys are cached rotated."""

    def __init__(self, config: SparkConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
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
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        shape = hidden_states.shape[:-1]
        heads = (*shape, -1, self.head_dim)
        query = self.q_proj(hidden_states).view(heads).transpose(1, 2)
        key = self.k_proj(hidden_states).view(heads).transpose(1, 2)
        value = self.v_proj(hidden_states).view(heads).transpose(1, 2)

        cos, sin = (table.unsqueeze(1) for table in position_embeddings)
        query, key = rotate_half_split(query, cos, sin), rotate_half_split(key, cos, sin)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)

        attention = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention
        )
        context, weights = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            sliding_window=self.config.sliding_window,
            **kwargs,
        )
        return self.o_proj(context.reshape(*shape, -1).contiguous()), weights


class SparkDecoderLayer(GradientCheckpointingLayer):
    """x + attention(LN(x)), then x + MLP(LN(x)); the residual stream is never normalised."""

    def __init__(self, config: SparkConfig, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = SparkAttention(config, layer_idx)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SparkMLP(config)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class SparkPreTrainedModel(PreTrainedModel):
    """What transformers needs to know of every Spark model."""

    config: SparkConfig
    config_class = SparkConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["SparkDecoderLayer"]  # noqa: RUF012  (transformers declares it so)
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": SparkDecoderLayer,
        "attentions": SparkAttention,
    }


class SparkModel(SparkPreTrainedModel):
    """Token ids to final hidden states ``[B, T, hidden_size]``."""

    def __init__(self, config: SparkConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            [SparkDecoderLayer(config, index) for index in range(config.num_hidden_layers)]
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.rotary_emb = SparkRotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """input_ids ``[B, T]`` or inputs_embeds ``[B, T, hidden_size]``.

        attention_mask is ``[B, keys]`` (1 for real tokens), or a ready mask ``[B, 1, T, keys]``.

        Raises:
            ValueError: both or none of input_ids and inputs_embeds are given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + seen
            position_ids = position_ids.unsqueeze(0)

        mask = self._attention_mask(inputs_embeds, attention_mask, position_ids, past_key_values)
        hidden_states = inputs_embeds
        position_embeddings = self.rotary_emb(hidden_states, position_ids=position_ids)
        for layer in self.layers[: self.config.num_hidden_layers]:
            hidden_states = layer(
                hidden_states,
                attention_mask=mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                position_embeddings=position_embeddings,
                **kwargs,
            )
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(hidden_states),
            past_key_values=past_key_values if use_cache else None,
        )

    def _attention_mask(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor,
        past_key_values: Cache | None,
    ) -> Any:
        """The mask in the form that the chosen attention kernel wants; 4-D masks pass unchanged."""
        sliding = "sliding_attention" in self.config.layer_types
        create = create_sliding_window_causal_mask if sliding else create_causal_mask
        return create(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
            and_mask_function=self._block_window(inputs_embeds, attention_mask, past_key_values),
        )

    def _block_window(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None,
        past_key_values: Cache | None,
    ) -> Callable[..., torch.Tensor] | None:
        """The block window as a mask function, or None while it hides nothing."""
        window = self.config.sliding_window
        if window is None or self.config.window != "block":
            return None
        seen = past_key_values.get_seq_length() if past_key_values is not None else 0
        if isinstance(seen, int) and seen + inputs_embeds.shape[1] <= window:
            return None
        if "flash" in self.config._attn_implementation:
            logger.warning_once(
                "flash kernels know only the exact window: beyond sliding_window tokens the output "
                "differs from upstream's inference. Use sdpa, or set window='exact' to agree."
            )
            return None
        padding = torch.zeros(len(inputs_embeds), dtype=torch.long, device=inputs_embeds.device)
        if attention_mask is not None and attention_mask.ndim == 2:
            padding = (attention_mask.cumsum(-1) == 0).sum(-1)

        def visible(batch: Any, head: Any, query: Any, key: Any) -> torch.Tensor:
            return in_block_window(query - padding[batch], key - padding[batch], window)

        return visible


class SparkForCausalLM(SparkPreTrainedModel, SparkGenerationMixin):
    """The language model. The head is the embedding table itself."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012
    _tp_plan = {"lm_head": "colwise_gather_output"}  # noqa: RUF012
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}  # type: ignore[dict-item]  # noqa: RUF012

    def __init__(self, config: SparkConfig) -> None:
        super().__init__(config)
        self.model = SparkModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits ``[B, T, vocab]`` in the model's dtype; logits_to_keep=n gives the last n of T."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept, :])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


__all__ = ["SparkForCausalLM", "SparkModel", "SparkPreTrainedModel"]
