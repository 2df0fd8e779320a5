"""Configuration of ChatGLM-6B (the first version) in transformers' conventions.

This file travels with every converted model directory, so it imports nothing but transformers.
"""

from typing import Any

from transformers.configuration_utils import PreTrainedConfig


class ChatGLM6BConfig(PreTrainedConfig):
    """Shape and constants of a ChatGLM-6B model; the defaults are those of the published one.

    The published name of this architecture, ``chatglm``, is ChatGLM2's and 3's as well, which are
    built otherwise; so it is not used here.

    Attributes:
        residual_layers: the residual stream is scaled by sqrt(2 * residual_layers). The published
            code has 28 there, however many layers a model has.
        mask_token_id, gmask_token_id: where an answer belongs; the prompt ends with the latter.
        bos_token_id: begins the answer, and ends what sees itself in both directions.
    """

    model_type = "chatglm_6b"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]  # noqa: RUF012  (transformers declares it so)

    vocab_size: int = 130528
    hidden_size: int = 4096
    intermediate_size: int = 16384
    num_hidden_layers: int = 28
    num_attention_heads: int = 32
    num_key_value_heads: int = 0
    head_dim: int = 0
    hidden_act: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 2048
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    residual_layers: int = 28
    use_cache: bool = True
    mask_token_id: int = 130000
    gmask_token_id: int = 130001
    bos_token_id: int | None = 130004
    eos_token_id: int | list[int] | None = 130005
    pad_token_id: int | None = 3
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in what follows from other fields.

        Raises:
            ValueError: the heads do not cut the hidden size into quarters of rotary channels.
        """
        if self.num_attention_heads < 1 or self.hidden_size % (4 * self.num_attention_heads):
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} does not cut hidden_size "
                f"{self.hidden_size} into parts of four"
            )
        self.head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        self.num_key_value_heads = self.num_key_value_heads or self.num_attention_heads
        super().__post_init__(**kwargs)


__all__ = ["ChatGLM6BConfig"]
