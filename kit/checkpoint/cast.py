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

_UNSIGNED: dict[DType, Any] = {"float32": np.uint32, "float16": np.uint16, "bfloat16": np.uint16}
_EXPONENT = {"float32": 0x7F800000, "float16": 0x7C00, "bfloat16": 0x7F80}
# Numbers cast at once: source and target of a tile stay in a core's cache.
_TILE = 1 << 17


def cast_into(target: Array, source: Array) -> None:
    """Copy with rounding to nearest even. Infinities and NaN stay what they are; a finite value
    beyond the target's range becomes infinite.
    """
    with np.errstate(all="ignore"):
        np.copyto(target, source, casting="unsafe")


def count_nonfinite(values: Array, dtype: DType) -> int:
    """How many of the contiguous ``values`` are infinite or NaN, in little memory.

    Their exponent has all bits set, so that they are the largest as integers: the positive ones as
    signed, the negative ones as unsigned. That shows quickly where there are none.
    """
    unsigned, exponent = _UNSIGNED[dtype], _EXPONENT[dtype]
    bits = values.reshape(-1).view(unsigned)
    signed = bits.view(f"i{bits.itemsize}")
    sign = 1 << (8 * bits.itemsize - 1)
    if not bits.size or (signed.max() < exponent and bits.max() < exponent | sign):
        return 0
    return sum(
        int(np.count_nonzero((bits[start : start + _TILE] & unsigned(exponent)) == exponent))
        for start in range(0, bits.size, _TILE)
    )
