"""The ``quantization_config`` of a model of less than 16 bits, as compressed-tensors reads it."""

from typing import Any

from kit.checkpoint.encoding import OutputDType, choose_group_size
from kit.checkpoint.layout import Dimensions


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
