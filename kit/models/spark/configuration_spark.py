"""Configuration of iFlytekSpark models in transformers' conventions.

This file travels with every converted model directory, so it imports nothing but transformers.
"""

from typing import Any

from packaging.version import Version
from transformers import __version__ as transformers_version
from transformers.utils import logging

TRIED_TRANSFORMERS = ("5.4.0", "5.19.0", "5.24.0")
"""The oldest version that this code runs on, the one that the kit pins, and the newest one that was
tried; tests run on all three."""


def require_tried(version: str) -> None:
    """Warn of a transformers newer than those that were tried.

    Raises:
        ImportError: it is older than the oldest that this code runs on, or of another major one.
    """
    oldest, pinned, newest = TRIED_TRANSFORMERS
    install = f"pip install 'transformers=={pinned}'"
    tried = f"iFlytekSpark's code was tried on transformers {oldest}, {pinned} and {newest}"
    found = Version(Version(version).base_version)
    if found < Version(oldest) or found.major > Version(newest).major:
        raise ImportError(f"{tried}; it does not run on {version}. To run it: {install}")
    if found > Version(newest):
        logging.get_logger(__name__).warning_once(
            f"{tried}, not on {version}. If something fails: {install}"
        )


require_tried(transformers_version)

from transformers.configuration_utils import PreTrainedConfig  # noqa: E402  (some versions lack it)

QUERY_BLOCK, KEY_BLOCK = 16, 128
"""Upstream's inference moves its window in blocks of so many queries by so many keys."""


class SparkConfig(PreTrainedConfig):
    """Shape and constants of an iFlytekSpark model; the defaults are those of iFlytekSpark-13B.

    Attributes:
        num_key_value_heads: always the number of heads; 0 stands for it.
        head_dim: 0 stands for hidden_size / num_attention_heads.
        intermediate_size: width of the gated MLP after gating (upstream's ffn_hidden_size).
        sliding_window: upstream's ``localsize``: how many keys a query sees at most, itself
            included; None for plain causal attention.
        window: ``"block"`` reproduces upstream's inference, whose window moves in whole blocks of
            128 keys and 16 queries; ``"exact"`` is the tight window of upstream's training and of
            flash kernels. The two differ only once a sequence is longer than ``sliding_window``.
        rope_parameters: rotary embedding over the whole head, base 1e6, half-split rotation.
        layer_types: per layer, whether its KV cache may forget what left the window.
    """

    model_type = "iflytekspark"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]  # noqa: RUF012  (transformers declares it so)
    base_model_tp_plan = {  # noqa: RUF012
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.mlp.gate_proj": "colwise",
        "layers.*.mlp.up_proj": "colwise",
        "layers.*.mlp.down_proj": "rowwise",
    }
    base_model_pp_plan = {  # noqa: RUF012
        "embed_tokens": (["input_ids"], ["inputs_embeds"]),
        "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
        "norm": (["hidden_states"], ["hidden_states"]),
    }

    vocab_size: int = 60000
    hidden_size: int = 5120
    intermediate_size: int = 14336
    num_hidden_layers: int = 40
    num_attention_heads: int = 40
    num_key_value_heads: int = 0
    head_dim: int = 0
    hidden_act: str = "gelu"
    max_position_embeddings: int = 32768
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    attention_dropout: float = 0.0
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = 5
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = True
    sliding_window: int | None = 8192
    window: str = "block"
    layer_types: list[str] = None  # type: ignore[assignment]  # __post_init__ fills it in
    rope_parameters: dict[str, Any] = None  # type: ignore[assignment]

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in what follows from other fields; check the rest.

        Raises:
            ValueError: a field contradicts another.
        """
        if self.window not in ("block", "exact"):
            raise ValueError(f"window must be 'block' or 'exact', not {self.window!r}")
        smallest = KEY_BLOCK - QUERY_BLOCK + 1 if self.window == "block" else 1
        if self.sliding_window is not None and self.sliding_window < smallest:
            raise ValueError(
                f"with window={self.window!r} a sliding_window of {self.sliding_window} would "
                f"leave queries without any key: at least {smallest}, or None"
            )
        if self.num_attention_heads < 1 or self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} does not cut hidden_size "
                f"{self.hidden_size} into even parts"
            )
        self.head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        self.num_key_value_heads = self.num_key_value_heads or self.num_attention_heads
        self.rope_parameters = self.rope_parameters or {
            "rope_type": "default",
            "rope_theta": 1_000_000.0,
        }
        if self.layer_types is None:
            self.layer_types = [self._layer_type()] * self.num_hidden_layers
        super().__post_init__(**kwargs)

    def _layer_type(self) -> str:
        """Block windows reach past the tight window unless it is a multiple of the query block."""
        if self.sliding_window is None or (
            self.window == "block" and self.sliding_window % QUERY_BLOCK
        ):
            return "full_attention"
        return "sliding_attention"


__all__ = ["SparkConfig"]
