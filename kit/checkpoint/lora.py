"""Low-rank adapters in upstream's format: ``W + (B · A) · alpha / r`` for some of the matrices.

An adapter's files are named and nested as a checkpoint's, and hold only pairs of factors, without
biases: A ``[r, in]`` and B ``[out, r]``. Query, key and value have a pair each; a pair of
``dense_h_to_4h`` serves both of its interleaved projections. Source: upstream's ``LoRALayer``
classes and files that they wrote.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from kit.checkpoint.encoding import Array
from kit.checkpoint.gather import Gatherer, blocks
from kit.checkpoint.layout import Tensor, matrix
from kit.checkpoint.tensor_parallel import merge_ranks
from kit.checkpoint.torchfile import CheckpointFile, index_checkpoint
from kit.errors import IntegrityError

_NAME = re.compile(
    r"encoder\.layers\.(?P<layer>0|[1-9]\d{0,5})\.(?P<module>[\w.]+)\.lora_(?P<factor>[AB])"
    r"(?P<third>_[QKV])?\.weight"
)
_TARGETS: dict[str, tuple[str, ...]] = {
    "self_attention.query_key_value_Q": ("self_attn.q_proj",),
    "self_attention.query_key_value_K": ("self_attn.k_proj",),
    "self_attention.query_key_value_V": ("self_attn.v_proj",),
    "self_attention.dense": ("self_attn.o_proj",),
    "mlp.dense_h_to_4h": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.dense_4h_to_h": ("mlp.down_proj",),
}
_HINT = "give an adapter as upstream's LoRA training writes it"


@dataclass(frozen=True)
class Factors:
    """The pair of one of the model's matrices ``[out, in]``.

    Attributes:
        a: ``[r, in]``.
        b: ``[n · out, r]``: the matrix's rows are ``b_rows`` of it.
    """

    a: Tensor
    b: Tensor
    b_rows: range

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix."""
        return len(self.b_rows), self.a.shape[1]


@dataclass(frozen=True)
class Adapter:
    """An indexed adapter. ``factors`` are by the names of the model's weights."""

    files: tuple[CheckpointFile, ...]
    factors: Mapping[str, Factors]
    rank: int


def read_adapter(paths: Sequence[Path]) -> Adapter:
    """Index an adapter's files, one for each tensor-parallel rank.

    Raises:
        EnvironmentNotReady: a file cannot be read.
        IntegrityError: a file is damaged or unsafe (``UnsafePickle``), the shards are not of one
            adapter, or the tensors are no pairs of factors of one rank.
    """
    files = tuple(index_checkpoint(path) for path in paths)
    pairs = _pairs(merge_ranks(files), paths[0])
    ranks = {factors.a.shape[0] for factors in pairs.values()}
    if len(ranks) != 1:
        raise IntegrityError(f"{paths[0]}: the factors are of ranks {sorted(ranks)}", hint=_HINT)
    return Adapter(files, pairs, ranks.pop())


def require_fit(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise IntegrityError unless every pair belongs to a weight, of ``shapes``, that it fits."""
    for name, factors in adapter.factors.items():
        if shapes.get(name) != factors.shape:
            found = f"of shape {list(shapes[name])}" if name in shapes else "not there"
            raise IntegrityError(
                f"the adapter is for another model: its {name} is {list(factors.shape)}, "
                f"the model's is {found}",
                hint="give the checkpoint that the adapter was trained on",
            )


def _pairs(tensors: Sequence[Tensor], path: Path) -> dict[str, Factors]:
    found: dict[tuple[str, str], dict[str, Tensor]] = {}
    for tensor in tensors:
        match = _NAME.fullmatch(tensor.name)
        module = match["module"] + (match["third"] or "") if match else ""
        if not match or module not in _TARGETS:
            raise IntegrityError(
                f"{path}: {tensor.name} is no factor of a low-rank adapter", hint=_HINT
            )
        found.setdefault((match["layer"], module), {})[match["factor"]] = tensor
    pairs: dict[str, Factors] = {}
    for (layer, module), factors in found.items():
        pairs |= _factors(f"model.layers.{layer}.", module, factors, path)
    return pairs


def _factors(prefix: str, module: str, found: dict[str, Tensor], path: Path) -> dict[str, Factors]:
    targets = _TARGETS[module]
    a, b = found.get("A"), found.get("B")
    if a is None or b is None:
        (lonely,) = found.values()
        raise IntegrityError(f"{path}: {lonely.name} has no counterpart", hint=_HINT)
    if (
        (len(a.shape), len(b.shape)) != (2, 2)
        or 0 in (*a.shape, *b.shape)
        or (a.shape[0] != b.shape[1])
        or b.shape[0] % len(targets)
    ):
        raise IntegrityError(
            f"{path}: {a.name} {list(a.shape)} and {b.name} {list(b.shape)} are no pair of factors",
            hint=_HINT,
        )
    return {
        f"{prefix}{target}.weight": Factors(a, b, range(start, b.shape[0], len(targets)))
        for start, target in enumerate(targets)
    }


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
