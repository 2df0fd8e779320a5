"""The proof that a loaded model works: a prompt is read and continued for real.

It also brings what comes with the first use of everything: kernels of both phases are loaded or
compiled, libraries make their workspaces. What comes later costs neither time nor memory anew.
"""

from pathlib import Path

from kit.errors import IntegrityError
from kit.memory.plan import PREFILL_CHUNK
from kit.serve.engine import SamplingParams, Step
from kit.serve.next_token import NotNumbers
from kit.serve.sequence import EngineSequence
from kit.serve.worker import Running

_ANSWER = 3
"""Tokens: the first comes of the prompt, the others of passes of their own."""


def warm_up(running: Running, directory: Path, context: int) -> None:
    """Read a whole chunk of a prompt and generate; greedily, then sampling. Raises what went wrong.

    Args:
        running: the engine's sequences; the calling thread becomes the engine's.
        directory: of the weights.
        context: tokens that a sequence may have.

    Raises:
        IntegrityError: the weights in ``directory`` give scores that are not numbers.
    """
    answer = min(_ANSWER, context - 1)
    steps: list[Step | Exception] = []
    greedy = SamplingParams(max_tokens=answer, top_logprobs=1, ignore_end=True)
    sampled = SamplingParams(answer, temperature=1.0, top_k=2, top_p=0.9, ignore_end=True)
    for length, params in ((min(PREFILL_CHUNK, context - answer), greedy), (1, sampled)):
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
