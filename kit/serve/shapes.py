"""Shapes of forward passes, and warming them up: on a CPU, a handful of values.

oneDNN and torch's attention for 16 bits compile a program for every new shape, and torch keeps the
most of them for ever, whatever ``ONEDNN_PRIMITIVE_CACHE_CAPACITY`` says: 2 MiB for each length of a
prompt. So passes are padded, and what is padding is neither stored nor looked at. A GPU's kernels
take any shape; there padding would only cost time.
"""

import time
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path

from kit.errors import IntegrityError
from kit.memory.plan.native import PREFILL_CHUNK
from kit.serve.engine import SamplingParams, Step
from kit.serve.next_token import NotNumbers
from kit.serve.worker import EngineSequence, Running

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


_ANSWER = 3
"""Tokens: the first comes of the prompt, the others of passes of their own."""
_MOMENT_SECONDS = 1.0
"""Where a chunk takes no longer, every length that passes have on a CPU is tried: what is compiled
for them is held, and measured, from the start."""


def warm_up(running: Running, directory: Path, context: int) -> None:
    """Read a whole chunk of a prompt and generate, greedily; then shorter ones, sampling.

    Args:
        running: the engine's sequences; the calling thread becomes the engine's.
        directory: of the weights.
        context: tokens that a sequence may have.

    Raises:
        IntegrityError: the weights in ``directory`` give scores that are not numbers.
        Exception: whatever else went wrong.
    """
    answer = min(_ANSWER, context - 1)
    longest = min(PREFILL_CHUNK, context - answer)
    greedy = SamplingParams(max_tokens=answer, top_logprobs=1, ignore_end=True)
    sampled = SamplingParams(answer, temperature=1.0, top_k=2, top_p=0.9, ignore_end=True)
    begin = time.monotonic()
    _generate(running, longest, greedy, directory)
    fast = time.monotonic() - begin < _MOMENT_SECONDS
    for length in [length for length in TOKENS if length < longest] if fast else (1,):
        _generate(running, length, sampled, directory)


def _generate(running: Running, length: int, params: SamplingParams, directory: Path) -> None:
    steps: list[Step | Exception] = []
    running.admit(EngineSequence((0,) * length, params, steps.append))
    while len(running):
        running.advance()
    for step in steps:
        if isinstance(step, NotNumbers):
            raise IntegrityError(
                f"the weights in {directory} give scores that are not numbers",
                hint="convert the checkpoint again; if that does not help, download it again",
            )
        if isinstance(step, Exception):
            raise step
