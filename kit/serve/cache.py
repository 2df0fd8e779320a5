"""The KV cache of the native engine: one preallocated ring per sequence."""

import torch

from kit.spark.configuration_spark import SparkConfig
from kit.spark.mask_spark import in_block_window


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

    def step(self, first_row: int, positions: torch.Tensor, longest: int) -> "CacheStep":
        """Prepare a forward pass over consecutive rows.

        Args:
            first_row: of the rows in the batch.
            positions: of the new tokens, ``[B, T]``.
            longest: tokens of the batch's longest sequence, the new ones included.
        """
        rows = slice(first_row, first_row + len(positions))
        used = min(longest, self.positions)
        return CacheStep(self, rows, positions, used)


class CacheStep:
    """What the model sees of the cache in one forward pass (transformers' cache interface)."""

    def __init__(self, cache: RingCache, rows: slice, positions: torch.Tensor, used: int) -> None:
        self.cache, self.rows, self.used = cache, rows, used
        self.at = positions % cache.positions
        self.row = torch.arange(len(positions), device=positions.device)[:, None]
        cache.key_positions[rows].scatter_(1, self.at, positions)
        self.mask = self._visible(positions)

    def _visible(self, query: torch.Tensor) -> torch.Tensor:
        """True where a query may look, bool ``[B, 1, T, used]``."""
        query = query[:, :, None]
        key = self.cache.key_positions[self.rows, None, : self.used]
        visible = (key >= 0) & (key <= query)
        if (window := self.cache.window) is not None:
            exact = key > query - window
            visible &= exact if self.cache.exact else in_block_window(query, key, window)
        return visible[:, None]

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new keys and values ``[B, heads, T, d]``; returns all, ``[B, heads, used, d]``.

        By index: ``scatter_`` of 16-bit numbers copies the whole ring on a CPU, to fp32 and back.
        """
        keys, values = self.cache.keys[layer][self.rows], self.cache.values[layer][self.rows]
        keys.transpose(1, 2)[self.row, self.at] = key.transpose(1, 2)
        values.transpose(1, 2)[self.row, self.at] = value.transpose(1, 2)
        return keys[:, :, : self.used], values[:, :, : self.used]

    def get_seq_length(self) -> int:
        """Asked for only to place masks, which :attr:`mask` replaces."""
        return 0
