"""Reading tensors block by block: which block is next, and the pieces that it is joined from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Self

import numpy as np

from kit.checkpoint.encoding import NUMPY, Array
from kit.checkpoint.layout import Piece, Tensor, matrix
from kit.checkpoint.pages import Bytes, PageRelease, read_into
from kit.checkpoint.source import Request
from kit.checkpoint.torchfile import ITEM_BYTES
from kit.errors import IntegrityError


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


class FileReader:
    """Reads anywhere in files into one buffer, leaving nothing in the page cache.

    Use as a context manager.
    """

    def __init__(self, buffer_bytes: int) -> None:
        self._buffer = np.empty(buffer_bytes, np.uint8)
        self._opened: dict[Path, tuple[FileIO, PageRelease]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file, release in self._opened.values():
            release.finish()
            file.close()

    def read(self, path: Path, offset: int, nbytes: int) -> Bytes:
        """Bytes ``offset`` to ``offset + nbytes``, valid until the next call.

        Raises:
            IntegrityError: the file is shorter.
        """
        if path not in self._opened:
            file = path.open("rb", buffering=0)
            self._opened[path] = file, PageRelease(file.fileno())
        file, release = self._opened[path]
        buffer = self._buffer[:nbytes]
        if read_into(file.fileno(), buffer.data, offset) < nbytes:
            raise IntegrityError(
                f"{path} is shorter than its header says", hint="copy or convert it again"
            )
        release.passed(offset, nbytes)
        return buffer


Read = Callable[[Path, int, int], Bytes]
"""``read(path, offset, nbytes)``: those bytes of a file, valid until the next call."""


class Gatherer:
    """Joins tensors' pieces. Holds one buffer of ``chunk_bytes``, once a tensor needs it."""

    def __init__(self, read: Read, chunk_bytes: int) -> None:
        self.chunk_bytes = chunk_bytes
        self._read = read
        self._joined: Bytes | None = None

    def blocks(self, tensor: Tensor, item_bytes: int) -> Iterator[tuple[Block, Array]]:
        """The tensor in memory order, in blocks that fit ``chunk_bytes``.

        Args:
            tensor: what to read.
            item_bytes: the largest size an element will take.

        Yields:
            Blocks and their elements, valid until the next block.

        Raises:
            IntegrityError: copies of the tensor differ.
        """
        for block in _cut(tensor, item_bytes, self.chunk_bytes):
            yield block, self.read(tensor, block)

    def read(self, tensor: Tensor, block: Block) -> Array:
        """The elements of a block that ``chunks.blocks`` made, ``[rows, columns]``."""
        if len(tensor.pieces) == 1 and not tensor.copies:
            return self._fetch(tensor, tensor.pieces[0], block).reshape(block.shape)
        if self._joined is None:
            self._joined = np.empty(self.chunk_bytes, np.uint8)
        raw = self._joined[: block.size * ITEM_BYTES[tensor.dtype]]
        joined = raw.view(NUMPY[tensor.dtype]).reshape(block.shape)
        for piece in tensor.pieces:
            share = share_of(piece.rows, piece.columns, block)
            if share.size:
                values = self._fetch(tensor, piece, block)
                joined[share.rows, share.columns] = values.reshape(share.shape)
        for copy in tensor.copies:
            values = self._fetch(tensor, copy, block)
            if not np.array_equal(values.view(np.uint8), raw):
                raise _copies_differ(tensor, copy)
        return joined

    def _fetch(self, tensor: Tensor, piece: Piece, block: Block) -> Array:
        return self._read(*_request(tensor, piece, block)).view(NUMPY[tensor.dtype])


def requests(tensor: Tensor, item_bytes: int, chunk_bytes: int) -> Iterator[Request]:
    """What ``Gatherer.blocks`` will read, in that order."""
    for block in _cut(tensor, item_bytes, chunk_bytes):
        for piece in (*tensor.pieces, *tensor.copies):
            request = _request(tensor, piece, block)
            if request.nbytes:
                yield request


def _cut(tensor: Tensor, item_bytes: int, chunk_bytes: int) -> Iterator[Block]:
    rows, columns = matrix(tensor.shape)
    return blocks(rows, columns, chunk_bytes // max(item_bytes, ITEM_BYTES[tensor.dtype]))


def _request(tensor: Tensor, piece: Piece, block: Block) -> Request:
    share = share_of(piece.rows, piece.columns, block)
    item_bytes = ITEM_BYTES[tensor.dtype]
    return Request(piece.path, piece.offset + share.skipped * item_bytes, share.size * item_bytes)


def _copies_differ(tensor: Tensor, copy: Piece) -> IntegrityError:
    return IntegrityError(
        f"{tensor.name} must be the same in all shards, but differs between "
        f"{tensor.pieces[0].path} and {copy.path.name}",
        hint="the shards are not of one checkpoint: get all of them again from one place",
    )
