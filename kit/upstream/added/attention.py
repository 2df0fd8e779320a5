"""Attention within upstream's block window, without its mask.

The window is granular: of query position p, key j is visible iff j <= p and
128 * floor(j / 128) > 16 * floor(p / 16) - window. So the visible keys of a query are one run that
ends at it, and only the run is looked at, for some queries at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

QUERY_BLOCK, KEY_BLOCK = 16, 128
QUERIES_AT_ONCE = 256
MASKED_SCORE = -10000.0
"""Upstream's score of an invisible key; its probability is 0 in fp32."""


def first_visible_key(position: int, window: int | None) -> int:
    """The first key that the query at ``position`` sees."""
    if window is None:
        return 0
    beyond = QUERY_BLOCK * (position // QUERY_BLOCK) - window
    return max(0, KEY_BLOCK * (beyond // KEY_BLOCK + 1))


@dataclass(frozen=True)
class MaskRows:
    """The mask of the queries from ``first`` on, over the keys before ``keys``."""

    window: int | None
    device: torch.device
    first: int
    queries: int
    keys: int

    def tile(self, first: int, last: int, first_key: int, last_key: int) -> torch.Tensor:
        """True where a key is invisible: bool [last - first, last_key - first_key].

        ``first`` and ``last`` count queries, ``first_key`` and ``last_key`` positions.
        """
        query = torch.arange(self.first + first, self.first + last, device=self.device)[:, None]
        key = torch.arange(first_key, last_key, device=self.device)[None, :]
        hidden = key > query
        if self.window is not None:
            beyond = QUERY_BLOCK * (query // QUERY_BLOCK) - self.window
            hidden |= KEY_BLOCK * (key // KEY_BLOCK) <= beyond
        return hidden


@dataclass(frozen=True)
class BlockMask:
    """Stands for the whole mask of a sequence, as long as it may get; slices are ``MaskRows``."""

    window: int | None
    device: torch.device

    def __getitem__(self, index: tuple[object, slice, slice]) -> MaskRows:
        """``mask[..., first:last, :keys]``, as upstream cuts it to generate."""
        _, rows, columns = index
        first = rows.start or 0
        return MaskRows(self.window, self.device, first, rows.stop - first, columns.stop)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: BlockMask | MaskRows | torch.Tensor | None,
    *,
    divisor: float,
    dropout: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Attention as upstream computes it: scores and softmax in fp32, the sum in ``value``'s type.

    Args:
        query: [queries, batch, heads, width]; ``key`` and ``value`` [keys, batch, heads, width].
        mask: the rows of these queries, or the whole where they are a sequence's first, as when
            upstream scores a text; or upstream's own tensor, True where a key is hidden.
        divisor: of the queries.
        dropout: applied to the probabilities.

    Returns:
        [queries, batch, heads * width], in the type of ``value``.
    """
    queries, batch, heads, width = query.shape
    if isinstance(mask, BlockMask):
        mask = mask[..., :queries, : len(key)]
    if not isinstance(mask, MaskRows):
        hidden = None if mask is None else mask.expand(batch, heads, -1, -1)
        return _attend_tile(query, key, value, hidden, divisor, dropout)
    result = torch.empty(queries, batch, heads * width, dtype=value.dtype, device=value.device)
    for start in range(0, queries, QUERIES_AT_ONCE):
        end = min(start + QUERIES_AT_ONCE, queries)
        run = slice(first_visible_key(mask.first + start, mask.window), mask.first + end)
        hidden = mask.tile(start, end, run.start, run.stop) if end - start > 1 else None
        tile = (query[start:end], key[run], value[run])
        result[start:end] = _attend_tile(*tile, hidden, divisor, dropout)
    return result


def _attend_tile(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    hidden: torch.Tensor | None,
    divisor: float,
    dropout: Callable[[torch.Tensor], torch.Tensor] | None,
) -> torch.Tensor:
    # [batch, heads, queries or keys, width]
    q, k, v = (tensor.permute(1, 2, 0, 3) for tensor in (query, key, value))
    scores = (q.float() / divisor) @ k.float().transpose(-1, -2)
    if hidden is not None:
        scores.masked_fill_(hidden, MASKED_SCORE)
    probabilities = torch.softmax(scores, dim=-1).to(v.dtype)
    if dropout is not None:
        probabilities = dropout(probabilities)
    return (probabilities @ v).permute(2, 0, 1, 3).flatten(2)
