"""The thread in which an engine works: it admits what waits, and advances what runs."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from kit.errors import KitError, ServiceError
from kit.serve.engine import OnStep, SamplingParams
from kit.serve.sequence import EngineSequence


class EngineDied(ServiceError):
    """The engine itself is lost, not just the sequences that ran."""


class Running(Protocol):
    """The sequences that run together. Called from the worker's thread only."""

    def __len__(self) -> int:
        """How many run."""
        ...

    def has_room(self) -> bool:
        """Whether a sequence can be admitted."""
        ...

    def admit(self, sequence: EngineSequence) -> None:
        """Take a sequence in."""
        ...

    def advance(self) -> int:
        """One round of work; returns the number of tokens generated.

        Raises:
            EngineDied: there will be no further round.
            Exception: the sequences that run have failed.
        """
        ...

    def fail(self, error: Exception) -> None:
        """End every sequence that runs with an error."""
        ...


class Worker:
    """Runs sequences in the order they came, in one thread.

    Args:
        name: of the thread.
        explain: makes of an error that ended sequences the one that they are told.

    Attributes:
        death: why the engine died; None while it lives, and after an orderly end.
        prompt_tokens: of all sequences that were submitted.
        generated_tokens: of all sequences.
    """

    def __init__(
        self, name: str, explain: Callable[[Exception], Exception] = lambda error: error
    ) -> None:
        self._explain = explain
        self.death: KitError | None = None
        self.prompt_tokens = self.generated_tokens = 0
        self._waiting: deque[EngineSequence] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._context = 0
        self._running: Running | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self, running: Running, context: int) -> None:
        """Begin to work with a loaded model that takes ``context`` tokens per sequence."""
        self._running, self._context = running, context
        self._thread.start()

    def submit(
        self, prompt_ids: Sequence[int], params: SamplingParams, on_step: OnStep
    ) -> Callable[[], None]:
        """Queue a sequence; returns at once with a function that cancels it.

        Raises:
            ValueError: the prompt is empty, or prompt and ``max_tokens`` pass the context.
        """
        if not prompt_ids or len(prompt_ids) + params.max_tokens > self._context:
            raise ValueError(
                f"{len(prompt_ids)} prompt tokens and {params.max_tokens} to generate do not fit "
                f"a context of {self._context}"
            )
        sequence = EngineSequence(tuple(prompt_ids), params, on_step)
        with self._wake:
            ended = self._closing
            if not ended:
                self._waiting.append(sequence)
                self.prompt_tokens += len(prompt_ids)
                self._wake.notify()
        if ended:
            sequence.fail(self.death or _stopped())
        return sequence.cancel

    def counts(self) -> tuple[int, int]:
        """Sequences that run, and that wait."""
        return 0 if self._running is None else len(self._running), len(self._waiting)

    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def die(self, error: KitError) -> None:
        """End because the engine is lost. From any thread."""
        self._end(error)

    def close(self) -> None:
        """End all sequences with an error and stop the thread."""
        self._end(None)
        if self._thread.is_alive():
            self._thread.join()

    def wait(self) -> KitError | None:
        """Block until the thread has ended; returns :attr:`death`."""
        self._thread.join()
        return self.death

    def _end(self, death: KitError | None) -> None:
        with self._wake:
            if not self._closing:
                self.death = death
            self._closing = True
            self._wake.notify()

    def _run(self) -> None:
        running = self._running
        assert running is not None  # noqa: S101  (start() has set it)
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closing or self._waiting or len(running))
                if self._closing:
                    break
            self._advance(running)
        ending = self.death or _stopped()
        running.fail(ending)
        while self._waiting:
            self._waiting.popleft().fail(ending)

    def _advance(self, running: Running) -> None:
        """One round: admit what fits, then one token for who generates."""
        while self._waiting and running.has_room():
            running.admit(self._waiting.popleft())
        try:
            self.generated_tokens += running.advance()
        except Exception as error:  # whatever a kernel raises ends these sequences...
            told = error if isinstance(error, EngineDied) else self._explain(error)
            if isinstance(told, EngineDied):  # ...and the engine, where nothing works after it
                self._end(told)
            else:
                running.fail(told)


def _stopped() -> ServiceError:
    return ServiceError("the server is shutting down", hint="send the request again")
