"""Linear layers whose weights stay integers: 8 bits with a scale a row, 4 bits with one a group.

The formats are those of ``kit.checkpoint.encoding``. On the CPU torch's kernels multiply with the
integers themselves. Where there is no kernel, or ordinary products are faster, the weights are made
floats a block of rows at a time.
"""

from typing import ClassVar

import torch
from torch import nn
from torch.nn.functional import linear

from kit.errors import UsageError
from kit.models.spark import SparkConfig, SparkForCausalLM
from kit.serve.heap import trim_heap

_INT8_KERNEL_INPUTS, _INT8_KERNEL_COLUMNS = 64, 16
_INT4_KERNEL_INPUTS, _INT4_KERNEL_ROWS = 32, 16
_BLOCK_ROWS, _CPU_BLOCK_ROWS = 4096, 512


class QuantisedLinear(nn.Module):
    """Takes the place of a linear layer on the meta device. The loader assigns its parameters."""

    kind: ClassVar[str]

    def __init__(self, replaced: nn.Linear, groups: int) -> None:
        super().__init__()
        self.in_features, self.out_features = replaced.in_features, replaced.out_features
        self.weight_scale = _parameter(self.out_features, groups, dtype=torch.bfloat16)
        self.bias = replaced.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Outputs ``[..., out]`` of inputs ``[..., in]``."""
        outputs = self.multiply(inputs.reshape(-1, self.in_features).contiguous()) + self.bias
        return outputs.view(*inputs.shape[:-1], self.out_features)

    def multiply(self, inputs: torch.Tensor) -> torch.Tensor:
        """Outputs ``[n, out]`` of inputs ``[n, in]``, without the bias."""
        outputs = inputs.new_empty(len(inputs), self.out_features)
        step = _CPU_BLOCK_ROWS if inputs.is_cpu else _BLOCK_ROWS
        for start in range(0, self.out_features, step):
            rows = slice(start, start + step)
            outputs[:, rows] = linear(inputs, self.dequantised(rows))
        return outputs

    def dequantised(self, rows: slice) -> torch.Tensor:
        """Some rows of the weight matrix ``[rows, in]``, in the type of the scales."""
        raise NotImplementedError


class Int8Linear(QuantisedLinear):
    """int8 ``weight`` ``[out, in]`` and ``weight_scale`` ``[out, 1]``, as they are in the file."""

    kind = "int8"

    def __init__(self, replaced: nn.Linear) -> None:
        super().__init__(replaced, 1)
        self.weight = _parameter(self.out_features, self.in_features, dtype=torch.int8)

    def multiply(self, inputs: torch.Tensor) -> torch.Tensor:
        """Outputs ``[n, out]`` of inputs ``[n, in]``, without the bias.

        torch's kernel takes the columns by sixteens without a check that there are as many.
        """
        few = len(inputs) <= _INT8_KERNEL_INPUTS
        if inputs.is_cpu and few and self.in_features % _INT8_KERNEL_COLUMNS == 0:
            return torch._weight_int8pack_mm(inputs, self.weight, self.weight_scale.flatten())
        return super().multiply(inputs)

    def dequantised(self, rows: slice) -> torch.Tensor:
        """Some rows of the weight matrix ``[rows, in]``, in the type of the scales."""
        return self.weight[rows].to(self.weight_scale.dtype).mul_(self.weight_scale[rows])


class Int4Linear(QuantisedLinear):
    """int32 ``weight_packed`` ``[out, in / 8]`` and ``weight_scale`` ``[out, in / group]``.

    For torch's CPU kernel they are laid out anew before they are assigned: uint8 ``[out, in / 2]``,
    and ``[in / group, out, 2]`` with a zero behind each scale.
    """

    kind = "int4"

    def __init__(self, replaced: nn.Linear, group_size: int) -> None:
        super().__init__(replaced, replaced.in_features // group_size)
        self.group_size = group_size
        shape = (self.out_features, self.in_features // 8)
        self.weight_packed = _parameter(*shape, dtype=torch.int32)
        self.weight_shape = _parameter(2, dtype=torch.int64)

    def laid_out(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Parameter ``name``, given as it is in the file, as this layer needs it."""
        if not self._has_kernel(tensor):
            return tensor
        if name == "weight_packed":
            return _kernel_layout(tensor)
        if name == "weight_scale":
            return torch.stack((tensor.T, torch.zeros_like(tensor.T)), dim=-1)
        return tensor

    def multiply(self, inputs: torch.Tensor) -> torch.Tensor:
        """Outputs ``[n, out]`` of inputs ``[n, in]``, without the bias."""
        if not self._has_kernel(inputs):
            return super().multiply(inputs)
        outputs = [
            torch.ops.aten._weight_int4pack_mm_for_cpu(
                some, self.weight_packed, self.group_size, self.weight_scale
            )
            for some in torch.split(inputs, _INT4_KERNEL_INPUTS)
        ]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def dequantised(self, rows: slice) -> torch.Tensor:
        """Some rows of the weight matrix ``[rows, in]``, in the type of the scales."""
        q = unpacked(self.weight_packed[rows]).to(self.weight_scale.dtype).sub_(8)
        scales = self.weight_scale[rows].unsqueeze(-1)
        return q.view(len(q), -1, self.group_size).mul_(scales).flatten(1)

    def _has_kernel(self, tensor: torch.Tensor) -> bool:
        return tensor.is_cpu and self.out_features % _INT4_KERNEL_ROWS == 0


def quantise_linears(model: SparkForCausalLM, config: SparkConfig) -> None:
    """Replace the decoder's linear layers by those that ``config.quantization_config`` asks for.

    Raises:
        UsageError: it asks for something else than ``kit weights convert`` makes.
    """
    told = getattr(config, "quantization_config", None)
    if told is None:
        return
    bits, group_size = _scheme(told)
    for layer in model.model.layers:
        for name, module in list(layer.named_modules()):
            if isinstance(module, nn.Linear):
                quantised = Int8Linear(module) if bits == 8 else Int4Linear(module, group_size)
                layer.set_submodule(name, quantised)


def type_name(model: SparkForCausalLM) -> str:
    """The type of the model's numbers, with that of its matrices before it where they differ."""
    floats = str(model.dtype).removeprefix("torch.")
    matrix = model.model.layers[0].self_attn.q_proj
    return f"{matrix.kind} ({floats})" if isinstance(matrix, QuantisedLinear) else floats


def unpacked(packed: torch.Tensor) -> torch.Tensor:
    """``q + 8`` as uint8 ``[rows, in]`` of int32 ``[rows, in / 8]``: the lowest bits come first."""
    pairs = packed.contiguous().view(torch.uint8)
    return torch.stack((pairs & 15, pairs >> 4), dim=-1).flatten(1)


def _kernel_layout(packed: torch.Tensor) -> torch.Tensor:
    """uint8 ``[out, in / 2]`` as torch's CPU kernel wants it, made in blocks of rows."""
    laid_out = torch.empty(packed.shape[0], packed.shape[1] * 4, dtype=torch.uint8)
    for start in range(0, len(packed), _CPU_BLOCK_ROWS):
        rows = slice(start, start + _CPU_BLOCK_ROWS)
        q = unpacked(packed[rows]).to(torch.int32)
        laid_out[rows] = torch.ops.aten._convert_weight_to_int4pack_for_cpu(q, 1)
    del q
    trim_heap()
    return laid_out


def _scheme(told: dict[str, object]) -> tuple[int, int]:
    """Bits and group size, 0 for a whole row, of a ``quantization_config``."""
    try:
        (scheme,) = told["config_groups"].values()  # type: ignore[attr-defined]
        weights = scheme["weights"]
        found = (scheme["format"], weights["num_bits"], weights["strategy"], weights["symmetric"])
        if scheme["input_activations"] is None:
            if found == ("int-quantized", 8, "channel", True):
                return 8, 0
            if found == ("pack-quantized", 4, "group", True):
                return 4, int(weights["group_size"])
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    raise UsageError(
        "the native engine does not know the quantization_config of config.json",
        hint="serve a directory that kit weights convert --precision int8 or int4 made",
    )


def _parameter(*shape: int, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape, dtype=dtype, device="meta"), requires_grad=False)
