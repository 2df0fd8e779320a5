"""The proof that a loaded model works: one token, generated for real."""

import math
from pathlib import Path

from kit.errors import IntegrityError
from kit.serve.engine import SamplingParams, Step
from kit.serve.sequence import EngineSequence
from kit.serve.worker import Running


def warm_up(running: Running, directory: Path) -> None:
    """Generate one token; raises what went wrong.

    Raises:
        IntegrityError: the weights in ``directory`` give scores that are not numbers.
    """
    steps: list[Step | Exception] = []
    params = SamplingParams(max_tokens=1, top_logprobs=1)
    running.admit(EngineSequence((0,), params, steps.append))
    while len(running):
        running.advance()
    for step in steps:
        if isinstance(step, Exception):
            raise step
        if step.logprobs is None or not math.isfinite(step.logprobs.chosen):
            raise IntegrityError(
                f"the weights in {directory} give scores that are not numbers",
                hint="convert the checkpoint again; if that does not help, download it again",
            )
