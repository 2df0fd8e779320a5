"""How many tokens, sequences and keys a forward pass has: on a CPU, a handful of values.

oneDNN and torch's attention for 16 bits compile a program for every new shape, and torch keeps the
most of them for ever, whatever ``ONEDNN_PRIMITIVE_CACHE_CAPACITY`` says: 2 MiB for each length of a
prompt. So passes are padded, and what is padding is neither stored nor looked at. A GPU's kernels
take any shape; there padding would only cost time.
"""

from bisect import bisect_left
from dataclasses import dataclass

TOKENS = (1, 16, 32, 64, 96, 128, 192, 256, 384, 512)
"""Tokens of a prompt that are read at once: at most half as many again, from 64 on, for nothing."""
_SEQUENCES = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_KEYS_STEP = 64
"""Keys of a step that generates: such a program is small."""
_PROMPT_KEYS = (64, 128, 256, 512)
_PROMPT_KEYS_STEP = 512
"""Keys of a prompt's later chunks: torch's kernel takes them by 512, and compiles for the rest."""


@dataclass(frozen=True)
class Shapes:
    """Sizes of forward passes. Where they are ``exact`` nothing is padded."""

    exact: bool

    def tokens(self, count: int, most: int) -> int:
        """Tokens of a row, of which ``count`` are real."""
        return count if self.exact else min(_next(TOKENS, count), most)

    def sequences(self, count: int, most: int) -> int:
        """Rows, of which ``count`` are real."""
        return count if self.exact else min(_next(_SEQUENCES, count), most)

    def keys(self, count: int, most: int, tokens: int) -> int:
        """Keys that the queries of ``tokens`` a row are multiplied with, ``count`` of them real."""
        if self.exact:
            return count
        if tokens == 1:
            return min(_multiple(count, _KEYS_STEP), most)
        if count <= _PROMPT_KEYS[-1]:
            return min(_next(_PROMPT_KEYS, count), most)
        return min(_multiple(count, _PROMPT_KEYS_STEP), most)


def _next(ladder: tuple[int, ...], count: int) -> int:
    """The lowest step of the ladder that is not below ``count``; beyond the last, ``count``."""
    at = bisect_left(ladder, count)
    return ladder[at] if at < len(ladder) else count


def _multiple(count: int, step: int) -> int:
    return -(-count // step) * step
