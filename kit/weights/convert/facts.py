"""The model's configuration: what the tensors tell, and what they cannot tell.

The number of heads, the context, the attention window, epsilon and the rotary base leave no trace
in the tensors. They come from a file with upstream's argument names, else from the published 13B.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kit.checkpoint.encoding import OutputDType, choose_group_size
from kit.checkpoint.layout import Dimensions
from kit.errors import IntegrityError, UsageError
from kit.records import read_json

HEAD_DIM = 128
CONTEXT_TOKENS = 32768
WINDOW_TOKENS = 8192
LAYER_NORM_EPS = 1e-5
ROPE_BASE = 1e6


def find_arguments(config: Path | None, checkpoint: Path) -> dict[str, Any]:
    """Upstream's arguments; none where no file tells them.

    Args:
        config: the file that was given. Without one it is ``config.json`` beside the checkpoint or,
            as a checkpoint's folder often lies beside it, in the folder above; there it counts only
            if it names ``num_layers``, as no other tool's configuration does.
        checkpoint: one of its files.

    Raises:
        UsageError: the file is missing or not a JSON object.
    """
    if config is not None:
        return read_arguments(config)
    beside = checkpoint.absolute().with_name("config.json")
    if beside.is_file():
        return read_arguments(beside)
    try:
        above = read_arguments(beside.parents[1] / "config.json")
    except UsageError:
        return {}
    return above if "num_layers" in above else {}


def read_arguments(path: Path) -> dict[str, Any]:
    """The content of a ``config.json`` in upstream's argument names.

    Raises:
        UsageError: the file is missing or not a JSON object.
    """
    try:
        arguments = read_json(path)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot read {path}: {error}", hint="give a JSON file with upstream's arguments"
        ) from error
    if not isinstance(arguments, dict):
        raise UsageError(f"{path} is not a JSON object", hint='it looks like {"num_layers": 40, …}')
    return arguments


def model_config(
    dimensions: Dimensions,
    dtype: OutputDType,
    arguments: Mapping[str, Any],
    num_heads: int | None = None,
) -> dict[str, Any]:
    """The configuration in Hugging Face's words, for ``kit.weights.convert.support_files``.

    Args:
        dimensions: read from the tensors.
        dtype: of the converted tensors.
        arguments: upstream's arguments; unknown ones are ignored, missing ones are the 13B's.
            ``localsize`` 0 or null means no window.
        num_heads: overrides ``num_attention_heads``.

    Raises:
        IntegrityError: an argument contradicts the tensors.
        UsageError: an argument is of the wrong kind, the heads do not divide the width, or
            int4 groups do not divide the widths.
    """
    _require_agreement(dimensions, arguments)
    quantization = quantization_config(dimensions, dtype)
    return {
        "hidden_size": dimensions.hidden_size,
        "num_hidden_layers": dimensions.layers,
        "intermediate_size": dimensions.ffn_size,
        "vocab_size": dimensions.vocab_size,
        "num_attention_heads": _heads(dimensions.hidden_size, arguments, num_heads),
        "max_position_embeddings": _context(arguments),
        "sliding_window": _window(arguments),
        "layer_norm_eps": _number(arguments, "layernorm_epsilon", LAYER_NORM_EPS),
        "rope_theta": _number(arguments, "rope_base", ROPE_BASE),
        "dtype": "bfloat16" if quantization else dtype,
        **({"quantization_config": quantization} if quantization else {}),
    }


def _require_agreement(dimensions: Dimensions, arguments: Mapping[str, Any]) -> None:
    for name, found in (
        ("num_layers", dimensions.layers),
        ("hidden_size", dimensions.hidden_size),
        ("ffn_hidden_size", dimensions.ffn_size),
        ("vocab_size", dimensions.vocab_size),
    ):
        if arguments.get(name, found) != found:
            raise IntegrityError(
                f"the configuration says {name} {arguments[name]}, the tensors say {found}",
                hint="give the configuration that belongs to this checkpoint",
            )


def _heads(hidden_size: int, arguments: Mapping[str, Any], num_heads: int | None) -> int:
    hint = (
        "tell the number of heads: --num-heads, or num_attention_heads in a config.json "
        "beside the checkpoint"
    )
    if num_heads is None and "num_attention_heads" not in arguments:
        if hidden_size % HEAD_DIM:
            raise UsageError(
                f"the number of attention heads is unknown: the hidden size {hidden_size} is no "
                f"multiple of the 13B's head size {HEAD_DIM}",
                hint=hint,
            )
        return hidden_size // HEAD_DIM
    told = arguments if num_heads is None else {"num_attention_heads": num_heads}
    heads = _positive(told, "num_attention_heads", hidden_size // HEAD_DIM)
    if hidden_size % (2 * heads):
        raise UsageError(
            f"{heads} attention heads do not cut the hidden size {hidden_size} into even parts",
            hint=hint,
        )
    return heads


def _window(arguments: Mapping[str, Any]) -> int | None:
    """The local window; below 113 tokens upstream's blocks would leave queries without any key."""
    if not arguments.get("localsize", WINDOW_TOKENS):
        return None
    window = _positive(arguments, "localsize", WINDOW_TOKENS)
    if window <= 112:
        raise UsageError(
            f"localsize {window} is too small: upstream's block-granular window needs 113 tokens",
            hint=f"such as {WINDOW_TOKENS}; 0 for no window",
        )
    return window


def _context(arguments: Mapping[str, Any]) -> int:
    """Upstream needs both; it fails beyond the smaller one."""
    names = [name for name in ("seq_length", "max_position_embeddings") if name in arguments]
    return min([_positive(arguments, name, CONTEXT_TOKENS) for name in names] or [CONTEXT_TOKENS])


def _positive(arguments: Mapping[str, Any], name: str, default: int) -> int:
    value = arguments.get(name, default)
    if type(value) is int and value > 0:
        return value
    raise UsageError(f"{name} is not a positive integer: {value!r}", hint=f"such as {default}")


def _number(arguments: Mapping[str, Any], name: str, default: float) -> float:
    value = arguments.get(name, default)
    if type(value) in (int, float) and value > 0:
        return float(value)
    raise UsageError(f"{name} is not a positive number: {value!r}", hint=f"such as {default:g}")


def quantization_config(dimensions: Dimensions, dtype: OutputDType) -> dict[str, Any] | None:
    """What tells how the linear layers' matrices are stored; None where they are of a float type.

    Format: ``QuantizationConfig`` of https://github.com/vllm-project/compressed-tensors. The head
    is the embedding table, which is not quantised.

    Raises:
        UsageError: the model's widths cannot be cut into groups for int4.
    """
    if dtype == "int8":
        return _config("int-quantized", {"num_bits": 8, "strategy": "channel"})
    if dtype == "int4":
        group_size = choose_group_size((dimensions.hidden_size, dimensions.ffn_size))
        group = {"num_bits": 4, "strategy": "group", "group_size": group_size}
        return _config("pack-quantized", group)
    return None


def _config(layout: str, weights: dict[str, Any]) -> dict[str, Any]:
    scheme = {
        "targets": ["Linear"],
        "weights": {"type": "int", "symmetric": True, "dynamic": False, **weights},
        "input_activations": None,
        "output_activations": None,
        "format": layout,
    }
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": layout,
        "ignore": ["lm_head"],
        "config_groups": {"group_0": scheme},
    }
