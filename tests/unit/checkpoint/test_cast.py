import numpy as np
import pytest
import torch

from kit.checkpoint.encoding import NUMPY, cast_into, count_nonfinite
from kit.checkpoint.torchfile import DType

TORCH = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def as_torch(values: np.ndarray, dtype: DType) -> torch.Tensor:  # type: ignore[type-arg]
    return torch.frombuffer(bytearray(values.tobytes()), dtype=TORCH[dtype])


@pytest.mark.parametrize("target", ["bfloat16", "float32"])
@pytest.mark.parametrize("source", ["float16", "bfloat16"])
def test_every_16_bit_value_casts_as_in_torch(source: DType, target: DType) -> None:
    values = np.arange(1 << 16, dtype=np.uint16).view(NUMPY[source])
    result = np.empty(values.shape, NUMPY[target])
    cast_into(result, values)
    expected = as_torch(values, source).to(TORCH[target])
    torch.testing.assert_close(as_torch(result, target), expected, rtol=0, atol=0, equal_nan=True)


def test_rounding_of_float32_to_bfloat16_is_to_nearest_even() -> None:
    """Every upper half with the lower halves around the tie, all NaN patterns among them."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    values = (upper[:, None] | lower).reshape(-1).view(np.float32)
    result = np.empty(values.shape, NUMPY["bfloat16"])
    cast_into(result, values)
    expected = as_torch(values, "float32").bfloat16()
    same = as_torch(result, "bfloat16")
    torch.testing.assert_close(same, expected, rtol=0, atol=0, equal_nan=True)
    assert np.array_equal(np.isnan(values), np.isnan(result.astype(np.float32)))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_nonfinite_elements_are_counted(dtype: DType) -> None:
    values = np.zeros(300_000, NUMPY[dtype])
    assert count_nonfinite(values, dtype) == 0
    values[[0, 131_071, 131_072, 299_999]] = [np.inf, -np.inf, np.nan, -np.nan]
    values[7] = 60000
    assert count_nonfinite(values, dtype) == 4


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, -np.nan])
def test_a_single_nonfinite_element_is_found(dtype: DType, value: float) -> None:
    values = np.array([-1, 60000, value, -60000, 0], NUMPY[dtype])
    assert count_nonfinite(values, dtype) == 1
    assert count_nonfinite(values[:2], dtype) == count_nonfinite(values[:0], dtype) == 0
