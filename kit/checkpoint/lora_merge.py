"""Adding an adapter to weights while they are converted, block by block, in fp32.

For an fp32 checkpoint these are the operations of upstream's own merge, and their result bit for
bit where both libraries add the products in one order (as for the recorded merge in the tests). For
other checkpoints the result is better: upstream rounds the base, both factors, their product and
the sum to the base's type.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from kit.checkpoint.cast import Array
from kit.checkpoint.chunks import blocks
from kit.checkpoint.gather import Gatherer
from kit.checkpoint.lora import Adapter, Factors
from kit.checkpoint.tensors import Tensor, matrix

MERGED_ITEM_BYTES = 4
TILE_MULTIPLICATIONS = 2**18
"""Up to this many, OpenBLAS keeps to one thread."""


class Merge:
    """Adds ``(B · A) · scale``. Holds the factor A of one matrix and one block of fp32 sums.

    Args:
        adapter: what to add.
        scale: alpha / rank.
        source: reads the adapter; not the reader of the weights, whose buffers are in use.
    """

    def __init__(self, adapter: Adapter, scale: float, source: Gatherer) -> None:
        self._factors = adapter.factors
        self._scale = np.float32(scale)
        self._source = source
        self._sums = np.empty(0, np.float32)
        self._a = np.empty((0, 0), np.float32)
        self._a_of: Tensor | None = None

    def add(self, name: str, values: Array, first_row: int, first_column: int) -> Array:
        """A block of a weight plus its share of the adapter.

        Args:
            name: of the weight.
            values: the block, ``[rows, columns]``.
            first_row: where it lies in the weight.
            first_column: likewise.

        Returns:
            ``values`` itself where the adapter has nothing for this weight; else fp32 sums, valid
            until the next call.
        """
        if name not in self._factors:
            return values
        factors = self._factors[name]
        rows, columns = values.shape
        a = self._factor_a(factors)[:, first_column : first_column + columns]
        if self._sums.size < values.size:
            self._sums = np.empty(values.size, np.float32)
        sums = self._sums[: values.size].reshape(rows, columns)
        b = self._factor_b(factors, first_row, rows)
        for tile in _tiles(rows, a.size):
            np.matmul(b[tile], a, out=sums[tile])
            np.multiply(sums[tile], self._scale, out=sums[tile])
            np.add(sums[tile], values[tile], out=sums[tile])
        return sums

    def _factor_a(self, factors: Factors) -> Array:
        if self._a_of is not factors.a:
            self._a = self._read(factors.a, 0, factors.a.shape[0])
            self._a_of = factors.a
        return self._a

    def _factor_b(self, factors: Factors, first_row: int, rows: int) -> Array:
        wanted = factors.b_rows[first_row : first_row + rows]
        step = wanted.step
        return self._read(factors.b, wanted.start, wanted[-1] + 1)[::step]

    def _read(self, tensor: Tensor, first_row: int, last_row: int) -> Array:
        """Some rows, in fp32."""
        width = matrix(tensor.shape)[1]
        result = np.empty((last_row - first_row, width), np.float32)
        largest = self._source.chunk_bytes // MERGED_ITEM_BYTES
        for block in blocks(last_row, width, largest, first_row):
            target = result[block.first_row - first_row : block.last_row - first_row]
            target[:, block.first_column : block.last_column] = self._source.read(tensor, block)
        return result


def _tiles(rows: int, multiplications_per_row: int) -> Iterator[slice]:
    """Rows whose sums stay in the processor's cache, and whose product takes one thread.

    A product that BLAS spreads over all cores waits for those that are busy hashing: six times
    slower on two cores. One row alone is never cut off: BLAS adds its products in another order.
    """
    step = max(2, TILE_MULTIPLICATIONS // multiplications_per_row)
    starts = list(range(0, max(rows - 1, 1), step))
    for start, stop in pairwise([*starts, rows]):
        yield slice(start, stop)
