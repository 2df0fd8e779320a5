"""Configuration of Baichuan2-13B models in transformers' conventions.

This file travels with every converted model directory, so it imports nothing but transformers.
"""

from typing import Any

from transformers.configuration_utils import PreTrainedConfig


class Baichuan2Config(PreTrainedConfig):
    """Shape and constants of a Baichuan2-13B model; the defaults are those of the published one.

    The published code's name for this architecture, ``baichuan``, is the 7B's as well, which has
    rotary positions instead of ALiBi; so it is not used here.

    Attributes:
        head_dim: 0 stands for hidden_size / num_attention_heads.
        num_key_value_heads: always the number of heads; 0 stands for it.
        max_position_embeddings: what it was trained on (published as ``model_max_length``). ALiBi
            goes on beyond it.
    """

    model_type = "baichuan2"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]  # noqa: RUF012  (transformers declares it so)

    vocab_size: int = 125696
    hidden_size: int = 5120
    intermediate_size: int = 13696
    num_hidden_layers: int = 40
    num_attention_heads: int = 40
    num_key_value_heads: int = 0
    head_dim: int = 0
    hidden_act: str = "silu"
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    use_cache: bool = True
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in what follows from other fields.

        Raises:
            ValueError: the heads do not cut the hidden size.
        """
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} does not cut hidden_size "
                f"{self.hidden_size}"
            )
        self.head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        self.num_key_value_heads = self.num_key_value_heads or self.num_attention_heads
        super().__post_init__(**kwargs)


__all__ = ["Baichuan2Config"]
