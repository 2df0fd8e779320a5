"""From the engine's thread to the event loop: prompts in, chunks of text out."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from kit.serve.api.answer import Answer, Chunk
from kit.serve.api.errors import ApiError, bad_request, engine_failed
from kit.serve.engine import OnStep, SamplingParams, Step
from kit.serve.model import Model

_RETRY_AFTER_SECONDS = 5
"""For a client that finds the queue full: what a short answer takes."""


@dataclass(frozen=True)
class Choice:
    """One sequence to generate, and the strings that end it."""

    prompt_ids: Sequence[int]
    params: SamplingParams
    stops: Sequence[str]


OnToken = Callable[[int], None]
"""Called with the choice's index for every token, whether or not it gives text."""


class Generation:
    """The choices of one request, under way in the engine from the first moment. Close it.

    Args:
        model: whose engine generates.
        choices: of the request.
        on_token: told of every token.
        on_close: called once, when nothing of it runs any more.
    """

    def __init__(
        self,
        model: Model,
        choices: Sequence[Choice],
        on_token: OnToken,
        on_close: Callable[["Generation"], None] = lambda _: None,
    ) -> None:
        self._on_token, self._on_close = on_token, on_close
        self._arrivals: asyncio.Queue[tuple[int, Step | Exception]] = asyncio.Queue()
        self._answers = [Answer(model.decoder, choice.stops) for choice in choices]
        self._running: dict[int, Callable[[], None]] = {}
        try:
            for index, choice in enumerate(choices):
                self._running[index] = model.engine.submit(
                    choice.prompt_ids, choice.params, self._delivery(index), request=self
                )
        except BaseException:
            self.close()
            raise

    async def chunks(self) -> AsyncGenerator[tuple[int, Chunk], None]:
        """Chunks of all choices as they come, each with its choice's index.

        Raises:
            ApiError: the engine, or the server, ended a sequence with an error.
        """
        while self._running:
            index, step = await self._arrivals.get()
            if isinstance(step, ApiError):
                raise step
            if index not in self._running:
                continue  # it was already under way when a stop string ended the answer
            if isinstance(step, Exception):
                raise engine_failed(step) from step
            self._on_token(index)
            chunk = self._answers[index].add(step)
            if chunk.finish_reason is not None:
                cancel = self._running.pop(index)
                if step.finish_reason is None:
                    cancel()
            if chunk.says_something():
                yield index, chunk

    def end(self, error: ApiError) -> None:
        """End with an error, whatever the engine does. In the event loop."""
        self._arrivals.put_nowait((-1, error))

    def close(self) -> None:
        """Cancel what still runs; may be called again."""
        while self._running:
            _, cancel = self._running.popitem()
            cancel()
        self._on_close(self)

    def _delivery(self, index: int) -> OnStep:
        """Puts the steps of choice ``index``, which come in the engine's thread, into the queue."""
        loop = asyncio.get_running_loop()

        def on_step(step: Step | Exception) -> None:
            loop.call_soon_threadsafe(self._arrivals.put_nowait, (index, step))

        return on_step


class Answers:
    """All requests that are being answered. Lives in the event loop.

    Args:
        max_waiting: sequences that may wait, beyond those that the engine generates at once.
    """

    def __init__(self, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self.ending: ApiError | None = None
        """Why there are no more answers."""
        self._running: set[Generation] = set()

    def begin(self, model: Model, choices: Sequence[Choice], on_token: OnToken) -> Generation:
        """Submit a request's choices.

        Raises:
            ApiError: 429 when there is no room in the queue; 400 when there never is for as many.
        """
        if self.ending is not None:
            raise self.ending
        room = self.max_waiting + model.info.max_sequences
        if len(choices) > room:
            raise bad_request(
                f"The request asks for {len(choices)} answers; this server takes {room} at once.",
                param="n",
                code="too_many_answers",
            )
        stats = model.engine.stats()
        if stats.running + stats.waiting + len(choices) > room:
            raise ApiError(
                429,
                f"The server is busy: {stats.running} answers are being generated and "
                f"{stats.waiting} wait. Please try again later.",
                code="queue_full",
                headers={"Retry-After": str(_RETRY_AFTER_SECONDS)},
            )
        generation = Generation(model, choices, on_token, self._running.discard)
        self._running.add(generation)
        return generation

    def end(self) -> None:
        """Tell every client that its answer will not be finished. From the event loop."""
        self.ending = ApiError(
            503,
            "The server is shutting down.",
            code="shutting_down",
            headers={"Connection": "close"},
        )
        for generation in tuple(self._running):
            generation.end(self.ending)
