"""Casting between the float types of checkpoints, into given memory."""

from typing import Any

import ml_dtypes
import numpy as np

from kit.checkpoint.torchfile import DType

NUMPY: dict[DType, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
Array = np.ndarray[Any, np.dtype[Any]]

_EXPONENT: dict[DType, tuple[Any, Any]] = {
    "float32": (np.uint32, np.uint32(0x7F800000)),
    "float16": (np.uint16, np.uint16(0x7C00)),
    "bfloat16": (np.uint16, np.uint16(0x7F80)),
}
_TILE = 1 << 17


def cast_into(target: Array, source: Array) -> None:
    """Copy with rounding to nearest even. Infinities and NaN stay what they are; a finite value
    beyond the target's range becomes infinite.
    """
    with np.errstate(all="ignore"):
        np.copyto(target, source, casting="unsafe")


def count_nonfinite(values: Array, dtype: DType) -> int:
    """How many of the contiguous ``values`` are infinite or NaN, in little memory."""
    unsigned, mask = _EXPONENT[dtype]
    bits = values.reshape(-1).view(unsigned)
    return sum(
        int(np.count_nonzero((bits[start : start + _TILE] & mask) == mask))
        for start in range(0, bits.size, _TILE)
    )
