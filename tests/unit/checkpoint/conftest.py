"""Conversions without the weights layer: tensors in, tensors out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kit.checkpoint.convert import Conversion, convert_tensors
from kit.checkpoint.lora import read_adapter
from kit.checkpoint.model import read_model

Tensors = dict[str, torch.Tensor]


def convert_to_tensors(
    paths: Sequence[Path],
    directory: Path,
    dtype: Any = "float32",
    lora: Sequence[Path] = (),
    scale: float = 1.0,
    **options: Any,
) -> Tensors:
    model = read_model(paths)
    adapter = read_adapter(lora) if lora else None
    conversion = Conversion(model.files, model.mappings, dtype, adapter, scale)
    convert_tensors(conversion, directory, **options)
    files = sorted(directory.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def assert_equal_bits(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        integers = torch.int32 if tensor.dtype == torch.float32 else torch.int16
        assert torch.equal(found[name].view(integers), tensor.view(integers)), name


@pytest.fixture(scope="session")
def converted() -> Callable[..., Tensors]:
    """``converted(paths, directory, …)``: the tensors of a conversion."""
    return convert_to_tensors


@pytest.fixture(scope="session")
def same_bits() -> Callable[[Tensors, Tensors], None]:
    return assert_equal_bits
