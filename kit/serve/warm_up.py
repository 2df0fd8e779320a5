"""The proof that a loaded model works: a prompt is read and continued for real.

It also brings what comes with the first use of everything: kernels of both phases are loaded or
compiled, libraries make their workspaces. What comes later costs neither time nor memory anew.
"""

import time
from pathlib import Path

from kit.errors import IntegrityError
from kit.memory.plan.native import PREFILL_CHUNK
from kit.serve.engine import SamplingParams, Step
from kit.serve.next_token import NotNumbers
from kit.serve.shapes import TOKENS
from kit.serve.worker import EngineSequence, Running

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
