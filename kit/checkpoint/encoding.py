"""How one of the model's tensors is stored: cast to another type, or quantised.

Quantised matrices have the layout of the compressed-tensors library, which transformers and vLLM
read (https://github.com/vllm-project/compressed-tensors): ``int-quantized`` for 8 bits with a scale
for each row, ``pack-quantized`` for 4 bits with a scale for each group of a row.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import ml_dtypes
import numpy as np

from kit.checkpoint.torchfile import ITEM_BYTES, DType
from kit.errors import UsageError

NUMPY: dict[DType, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
Array = np.ndarray[Any, np.dtype[Any]]

_UNSIGNED: dict[DType, Any] = {"float32": np.uint32, "float16": np.uint16, "bfloat16": np.uint16}
_EXPONENT = {"float32": 0x7F800000, "float16": 0x7C00, "bfloat16": 0x7F80}
# Numbers cast at once: source and target of a tile stay in a core's cache.
_FINITE_TILE = 1 << 17


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
        int(np.count_nonzero((bits[start : start + _FINITE_TILE] & unsigned(exponent)) == exponent))
        for start in range(0, bits.size, _FINITE_TILE)
    )


BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# Numbers rounded at once: the fp32 copies of a tile stay in a core's cache.
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


OutputDType = Literal["bfloat16", "float32", "int8", "int4"]
"""Of a converted model. The integers are those of the linear layers' matrices; with them, all other
tensors are bfloat16."""

STORED_ITEM_BYTES = {"F32": 4, "BF16": 2, "I8": 1, "I32": 4, "I64": 8}
_QUANTISED_SUFFIX = "_proj.weight"
_GROUP_SIZES = (128, 64, 32)


@dataclass(frozen=True)
class Stored:
    """One tensor of a file.

    Attributes:
        dtype: as safetensors names it.
        constant: its content, where that does not follow from the weights.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    constant: bytes | None = None

    @property
    def nbytes(self) -> int:
        """Size of the tensor."""
        return math.prod(self.shape) * STORED_ITEM_BYTES[self.dtype]


class Encoding(Protocol):
    """Makes, of rows of one of the model's tensors, rows of the tensors that store it."""

    def stored(self, name: str, shape: tuple[int, ...]) -> tuple[Stored, ...]:
        """The tensors that store tensor ``name``. Constants come last."""
        ...

    def row_bytes(self, columns: int) -> tuple[int, ...]:
        """What the first ``columns`` of a row take in each of them, constants apart."""
        ...

    def encode(self, values: Array, into: Sequence[Array]) -> int:
        """Fill uint8 ``[rows, row_bytes]`` of each of them from ``[rows, columns]``.

        Returns:
            How many infinite or NaN elements were written.
        """
        ...


@dataclass(frozen=True)
class Cast:
    """Every element in a float type."""

    dtype: Literal["bfloat16", "float32"]

    def stored(self, name: str, shape: tuple[int, ...]) -> tuple[Stored, ...]:
        """One tensor."""
        return (Stored(name, "BF16" if self.dtype == "bfloat16" else "F32", shape),)

    def row_bytes(self, columns: int) -> tuple[int, ...]:
        """The elements."""
        return (columns * ITEM_BYTES[self.dtype],)

    def encode(self, values: Array, into: Sequence[Array]) -> int:
        """Round to nearest even."""
        converted = into[0].view(NUMPY[self.dtype])
        cast_into(converted, values)
        return count_nonfinite(converted, self.dtype)


@dataclass(frozen=True)
class Quantised:
    """Integers of 8 or 4 bits, and bfloat16 scales for each ``group`` neighbours in a row."""

    bits: Literal[8, 4]
    columns: int
    group: int

    def stored(self, name: str, shape: tuple[int, ...]) -> tuple[Stored, ...]:
        """``weight`` and ``weight_scale``; ``weight_packed``, ``_scale`` and ``_shape`` for 4."""
        rows, columns = shape
        scales = Stored(f"{name}_scale", "BF16", (rows, columns // self.group))
        if self.bits == 8:
            return Stored(name, "I8", shape), scales
        content = np.array(shape, "<i8").tobytes()
        return (
            Stored(f"{name}_packed", "I32", (rows, columns // 8)),
            scales,
            Stored(f"{name}_shape", "I64", (2,), content),
        )

    def row_bytes(self, columns: int) -> tuple[int, ...]:
        """The integers, then the scales."""
        return columns * self.bits // 8, columns // self.group * BFLOAT16.itemsize

    def encode(self, values: Array, into: Sequence[Array]) -> int:
        """Round to nearest; see ``quantise``.

        Raises:
            ValueError: ``values`` are not whole rows.
        """
        if values.shape[1] != self.columns:
            raise ValueError(f"rows of {self.columns} are quantised whole, not {values.shape[1]}")
        scales = into[1].view(BFLOAT16)
        quantise_into(into[0].view(np.int8 if self.bits == 8 else np.uint8), scales, values)
        return count_nonfinite(scales, "bfloat16")


def choose_encoding(
    name: str, shape: tuple[int, ...], dtype: OutputDType, group_size: int | None
) -> Encoding:
    """How tensor ``name`` is stored in a model of this type, with 4-bit groups of this size."""
    if dtype == "bfloat16" or dtype == "float32":
        return Cast(dtype)
    if not is_quantised(name):
        return Cast("bfloat16")
    if dtype == "int8":
        return Quantised(8, shape[1], shape[1])
    return Quantised(4, shape[1], group_size or shape[1])


def is_quantised(name: str) -> bool:
    """Whether a tensor is stored as integers where the model is: the linear layers' matrices."""
    return name.endswith(_QUANTISED_SUFFIX)


def choose_group_size(columns: Iterable[int]) -> int:
    """Neighbours that share a 4-bit scale: 128, or 64 or 32 where only these divide all widths.

    Raises:
        UsageError: none of them does.
    """
    widths = sorted(set(columns))
    for size in _GROUP_SIZES:
        if not any(width % size for width in widths):
            return size
    raise UsageError(
        f"int4 stores groups of {_GROUP_SIZES[-1]} weights or more, which do not divide the "
        f"linear layers' widths {widths}",
        hint="convert with --precision int8",
    )
