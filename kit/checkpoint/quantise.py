"""Rounding matrices to 8 or 4 bits, each group of a row with a scale of its own.

``weight ≈ q · scale`` with q from -2^(b-1) to 2^(b-1) - 1, rounded to nearest. The scale has the
sign that brings the group's largest weight to the negative side, which is one value longer, and the
size that puts it half a step beyond the last value. The steps are then 15/17 of the usual
``max / 7.5`` (4 bits), and the mean squared error of normally distributed weights a fifth smaller;
a search over a dozen scales for each group gains another twentieth.
"""

import ml_dtypes
import numpy as np

from kit.checkpoint.cast import Array

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_TILE = 1 << 17


def quantise_into(q: Array, scales: Array, values: Array) -> None:
    """Quantise a matrix, some rows at a time, so that it takes little memory.

    Args:
        q: int8 ``[rows, columns]`` for 8 bits; uint8 ``[rows, columns / 2]`` for 4, where a byte
            holds ``q + 8`` of two neighbours, the first one in its low half.
        scales: bfloat16 ``[rows, groups]``; a group is ``columns / groups`` neighbours.
        values: float ``[rows, columns]``. A group that is not finite gets such a scale.
    """
    bits = 8 if q.shape == values.shape else 4
    step = max(1, _TILE // values.shape[1])
    for row in range(0, len(values), step):
        tile = slice(row, row + step)
        rounded, scales[tile] = _quantised(values[tile], scales.shape[1], bits)
        q[tile] = rounded if bits == 8 else _packed(rounded)


def _quantised(values: Array, groups: int, bits: int) -> tuple[Array, Array]:
    """q as int8 ``[rows, columns]``, and the scales as bfloat16 ``[rows, groups]``."""
    grouped = values.astype(np.float32).reshape(len(values), groups, -1)
    high, low = grouped.max(axis=2), grouped.min(axis=2)
    edge = 1 << (bits - 1)
    with np.errstate(all="ignore"):
        scales = (np.where(-low >= high, low, high) / -(edge + 0.5)).astype(BFLOAT16)
        scales[scales == 0] = 1
        grouped /= scales.astype(np.float32)[:, :, None]
        np.rint(grouped, out=grouped)
        np.clip(grouped, -edge, edge - 1, out=grouped)
        return grouped.astype(np.int8).reshape(values.shape), scales


def _packed(q: Array) -> Array:
    pairs = (q + np.int8(8)).view("<u2")
    packed: Array = (pairs | pairs >> 4).astype(np.uint8)
    return packed
