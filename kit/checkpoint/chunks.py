"""Arithmetic of chunks: which block of a tensor to read next, and where its rows go."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """Rows ``first_row`` to ``last_row`` (exclusive), columns alike, of a tensor seen as a matrix.

    Its elements are contiguous: either whole rows, or a piece of one row.
    """

    first_row: int
    last_row: int
    first_column: int
    last_column: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the block."""
        return self.last_row - self.first_row, self.last_column - self.first_column

    @property
    def size(self) -> int:
        """Elements of the block."""
        rows, columns = self.shape
        return rows * columns


def blocks(rows: int, width: int, max_elements: int, first_row: int = 0) -> Iterator[Block]:
    """Cut a ``[rows, width]`` matrix into blocks of at most ``max_elements``, in memory order.

    Rows before ``first_row`` are left out.
    """
    if width > max_elements:
        for row in range(first_row, rows):
            for column in range(0, width, max_elements):
                yield Block(row, row + 1, column, min(column + max_elements, width))
        return
    step = max_elements // width
    for row in range(first_row, rows, step):
        yield Block(row, min(row + step, rows), 0, width)


def wanted(rows: range, first: int, last: int) -> tuple[range, int]:
    """Those of ``rows`` (ascending) that lie in ``first`` to ``last`` (exclusive).

    Returns:
        The rows, counted from ``first``, and the position of the first of them within ``rows``.
    """
    begin = len(range(rows.start, min(rows.stop, first), rows.step))
    end = len(range(rows.start, min(rows.stop, last), rows.step))
    found = rows[begin:end]
    return range(found.start - first, found.stop - first, found.step), begin


@dataclass(frozen=True)
class Share:
    """What a rectangle has of a block, and where.

    Whole rows of the rectangle or a part of one of its rows, since blocks are that: contiguous
    wherever the rectangle's elements are stored row by row.

    Attributes:
        shape: rows and columns.
        rows: counted in the block, as ``columns``.
        skipped: elements of the rectangle that lie before.
    """

    shape: tuple[int, int]
    rows: slice
    columns: slice
    skipped: int

    @property
    def size(self) -> int:
        """Elements."""
        return self.shape[0] * self.shape[1]


def share_of(rows: range, columns: range, block: Block) -> Share:
    """What a rectangle, of ``rows`` (ascending) and ``columns`` (step 1), has of a block."""
    found, position = wanted(rows, block.first_row, block.last_row)
    first = max(columns.start, block.first_column)
    last = max(first, min(columns.stop, block.last_column))
    return Share(
        (len(found), last - first),
        slice(found.start, found.stop, found.step),
        slice(first - block.first_column, last - block.first_column),
        position * len(columns) + first - columns.start,
    )
