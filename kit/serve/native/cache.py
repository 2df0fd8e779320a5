"""The KV cache of the native engine: one preallocated ring per sequence."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kit.models.spark.configuration_spark import KEY_BLOCK, QUERY_BLOCK, SparkConfig
from kit.models.spark.mask_spark import in_block_window
from kit.serve.shapes import Shapes

_MASK_ALIGNMENT = 16
"""torch's fused kernels copy a mask in every layer whose rows do not begin at such a multiple."""


@dataclass(frozen=True)
class Span:
    """The tokens of one forward pass: of consecutive rows, equally many in each.

    Attributes:
        first_row: of the rows in the cache.
        starts: position of each row's first token.
        tokens: in each row.
        padded_rows, padded_tokens: what is computed; beyond the real ones there is padding.
    """

    first_row: int
    starts: Sequence[int]
    tokens: int
    padded_rows: int
    padded_tokens: int

    @property
    def rows(self) -> int:
        """How many are real."""
        return len(self.starts)

    def positions(self) -> list[int]:
        """Of all tokens, row by row. Padding is where the last real token is: it sees the same."""
        last = self.tokens - 1
        starts = [*self.starts, *[self.starts[-1]] * (self.padded_rows - self.rows)]
        return [start + min(at, last) for start in starts for at in range(self.padded_tokens)]


class RingCache:
    """Keys and values of up to ``rows`` sequences, ``positions`` of each, allocated once.

    Position p of a sequence lies at index p mod ``positions`` of its row; keys are stored rotated,
    so their order in the ring does not matter. Which of them a query sees is decided by the
    positions kept beside them. Rows are handed out from 0, so that the sequences that decode
    together are a view of the first rows and never copied.
    """

    def __init__(
        self,
        config: SparkConfig,
        rows: int,
        positions: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (rows, config.num_attention_heads, positions, config.head_dim)
        layers = range(config.num_hidden_layers)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in layers]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in layers]
        self.key_positions = torch.full((rows, positions), -1, dtype=torch.long, device=device)
        self.positions = positions
        self.window = config.sliding_window
        self.exact = config.window == "exact"

    @property
    def size_bytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    def clear(self, row: int) -> None:
        """Forget a row's sequence."""
        self.key_positions[row] = -1

    def move(self, source: int, target: int) -> None:
        """Copy a row's sequence over another's."""
        for tensor in (*self.keys, *self.values, self.key_positions):
            tensor[target] = tensor[source]

    def step(self, span: Span, positions: torch.Tensor, shapes: Shapes) -> "CacheStep":
        """Prepare a forward pass.

        Args:
            span: its tokens.
            positions: theirs, padding included, ``[B, T]``.
            shapes: how many keys it looks at.
        """
        return CacheStep(self, span, positions, shapes)

    def first_visible(self, query: int) -> int:
        """The lowest position that a query at position ``query`` sees."""
        if self.window is None:
            return 0
        if self.exact:
            return max(0, query - self.window + 1)
        out_of_it = query // QUERY_BLOCK * QUERY_BLOCK - self.window
        return max(0, (out_of_it // KEY_BLOCK + 1) * KEY_BLOCK)


class CacheStep:
    """What the model sees of the cache in one forward pass (transformers' cache interface).

    Attributes:
        mask: added to the scores, ``[B, 1, T, keys]`` in the cache's dtype: 0 where a query may
            look, -inf elsewhere. None: a query sees all keys up to its own, so that kernels without
            a mask can be chosen.
    """

    def __init__(
        self, cache: RingCache, span: Span, positions: torch.Tensor, shapes: Shapes
    ) -> None:
        self._cache, self._span = cache, span
        real = positions[: span.rows, : span.tokens]
        self._at = real % cache.positions
        self._row = torch.arange(span.rows, device=positions.device)[:, None]
        first = span.first_row
        self._rows = slice(first, first + span.padded_rows)
        cache.key_positions[first : first + span.rows].scatter_(1, self._at, real)
        seen = self._seen_by_all(shapes)
        self._keys = seen or self._keys_for(shapes)
        self.mask = None if seen else self._mask(positions)

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new keys and values ``[B, heads, T, d]``; returns those to look at.

        By index: ``scatter_`` of 16-bit numbers copies the whole ring on a CPU, to fp32 and back.
        """
        keys = self._cache.keys[layer][self._rows]
        values = self._cache.values[layer][self._rows]
        rows, tokens = self._span.rows, self._span.tokens
        keys.transpose(1, 2)[self._row, self._at] = key.transpose(1, 2)[:rows, :tokens]
        values.transpose(1, 2)[self._row, self._at] = value.transpose(1, 2)[:rows, :tokens]
        return keys[:, :, self._keys], values[:, :, self._keys]

    def get_seq_length(self) -> int:
        """Asked for only to place masks, which :attr:`mask` replaces."""
        return 0

    def _seen_by_all(self, shapes: Shapes) -> slice | None:
        """Indices of the ring that need no mask: every real query sees those up to its own."""
        span, size = self._span, self._cache.positions
        if span.padded_tokens > 1:  # a prompt's first chunk, while its window hides nothing
            begins = span.starts == [0] and self._cache.first_visible(span.tokens - 1) == 0
            return slice(0, span.padded_tokens) if begins else None
        query = span.starts[0]
        if not shapes.exact or any(start != query for start in span.starts):
            return None
        low, high = self._cache.first_visible(query) % size, query % size
        return slice(low, high + 1) if low <= high else None  # else it lies across the ring's seam

    def _keys_for(self, shapes: Shapes) -> slice:
        span, size = self._span, self._cache.positions
        used = min(max(span.starts) + span.tokens, size)
        return slice(0, shapes.keys(used, size, span.padded_tokens))

    def _mask(self, query: torch.Tensor) -> torch.Tensor:
        query = query[:, :, None]
        key = self._cache.key_positions[self._rows, None, self._keys]
        visible = (key >= 0) & (key <= query)
        if (window := self._cache.window) is not None:
            exact = key > query - window
            visible &= exact if self._cache.exact else in_block_window(query, key, window)
        visible[self._span.rows :] = True  # a row of padding sees something, so that it is a number
        *shape, keys = visible.shape
        stored = -(-keys // _MASK_ALIGNMENT) * _MASK_ALIGNMENT
        mask = self._cache.keys[0].new_zeros(*shape, stored)[..., :keys]
        return mask.masked_fill_(~visible, -torch.inf)[:, None]
