"""From the engine's thread to the event loop: prompts in, chunks of text out."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from kit.serve.answer import Answer, Chunk
from kit.serve.engine import Engine, OnStep, SamplingParams, Step
from kit.serve.errors import engine_failed
from kit.serve.tokenizer import InContextDecoder


@dataclass(frozen=True)
class Choice:
    """One sequence to generate, and the strings that end it."""

    prompt_ids: Sequence[int]
    params: SamplingParams
    stops: Sequence[str]


OnToken = Callable[[int], None]
"""Called with the choice's index for every token, whether or not it gives text."""


Arrivals = asyncio.Queue[tuple[int, Step | Exception]]


async def generate(
    engine: Engine, decoder: InContextDecoder, choices: Sequence[Choice], on_token: OnToken
) -> AsyncGenerator[tuple[int, Chunk], None]:
    """Chunks of all choices as they come, each with its choice's index.

    However the iteration ends, what still runs is cancelled in the engine at once: close the
    generator when the client has gone.

    Raises:
        ApiError: the engine ended a sequence with an error.
    """
    arrivals: Arrivals = asyncio.Queue()
    running: dict[int, Callable[[], None]] = {}
    try:
        for index, choice in enumerate(choices):
            running[index] = engine.submit(
                choice.prompt_ids, choice.params, _delivery(arrivals, index)
            )
        answers = [Answer(decoder, choice.stops) for choice in choices]
        while running:
            index, step = await arrivals.get()
            if index not in running:
                continue  # it was already under way when a stop string ended the answer
            if isinstance(step, Exception):
                raise engine_failed(step) from step
            on_token(index)
            chunk = answers[index].add(step)
            if chunk.finish_reason is not None:
                cancel = running.pop(index)
                if step.finish_reason is None:
                    cancel()
            if chunk.says_something():
                yield index, chunk
    finally:
        for cancel in running.values():
            cancel()


def _delivery(arrivals: Arrivals, index: int) -> OnStep:
    """Puts the steps of choice ``index``, which come in the engine's thread, into the queue."""
    loop = asyncio.get_running_loop()

    def on_step(step: Step | Exception) -> None:
        loop.call_soon_threadsafe(arrivals.put_nowait, (index, step))

    return on_step
