"""Tensors as conversions see them: joined from pieces that may lie in several files.

A tensor is seen as a matrix: its first dimension, and all others together. One that lies in one
place is a single piece. Tensor-parallel shards hold blocks of rows or of columns, MindSpore cuts
long tensors anywhere, and the gated MLP interleaves the rows of two tensors: all of these are
rectangles.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from kit.checkpoint.torchfile import DType, TensorEntry


@dataclass(frozen=True)
class Piece:
    """A rectangle of a tensor: its elements row by row, without gaps, from ``offset`` of a file.

    Attributes:
        rows: the tensor's rows in it, ascending, perhaps with a step.
        columns: the tensor's columns in it, without a step.
    """

    path: Path
    offset: int
    rows: range
    columns: range


@dataclass(frozen=True)
class Tensor:
    """A tensor whose pieces cover it, each element once.

    Attributes:
        copies: further copies of the whole tensor, which must be equal byte for byte.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    copies: tuple[Piece, ...] = ()


def matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a tensor of this shape seen as a matrix."""
    return (shape[0], math.prod(shape[1:])) if shape else (1, 1)


def whole(entry: TensorEntry) -> Piece:
    """The piece that is all of a file's tensor."""
    rows, columns = matrix(entry.shape)
    return Piece(entry.path, entry.offset, range(rows), range(columns))


def in_one_place(entry: TensorEntry) -> Tensor:
    """A file's tensor as a tensor of one piece."""
    return Tensor(entry.name, entry.dtype, entry.shape, (whole(entry),))
