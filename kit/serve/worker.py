"""The thread in which an engine works, and the sequences that it admits and advances."""

import threading
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

import torch

from kit.errors import KitError, ServiceError
from kit.serve.engine import FinishReason, Logprobs, OnStep, SamplingParams, Step


class EngineSequence:
    """A request on its way through the engine. Only :meth:`cancel` is called from other threads."""

    def __init__(self, prompt_ids: Sequence[int], params: SamplingParams, on_step: OnStep) -> None:
        self.prompt_ids = array("i", prompt_ids)
        """Four bytes a token; as Python's numbers, prompts that wait would take ten times that."""
        self.params = params
        self.cancelled = False
        self.finished = False
        self.prefilled = 0
        """Prompt tokens that the KV cache holds."""
        self.generated = 0
        self.last_token = -1
        self.generator: torch.Generator | None = None
        self._on_step = on_step

    def __len__(self) -> int:
        """Tokens so far, prompt and generated."""
        return len(self.prompt_ids) + self.generated

    def start(self, device: torch.device) -> None:
        """Seed the sequence's own random numbers."""
        if not self.params.greedy:
            self.generator = torch.Generator(device)
            if self.params.seed is None:
                self.generator.seed()
            else:
                self.generator.manual_seed(self.params.seed)

    def append(self, token_id: int, logprobs: Logprobs | None, end_token_id: int) -> None:
        """Take a generated token and hand it to the listener."""
        self.last_token = token_id
        self.generated += 1
        reason: FinishReason | None = None
        if token_id == end_token_id and not self.params.ignore_end:
            reason = "stop"
        elif self.generated >= self.params.max_tokens:
            reason = "length"
        self.finished = reason is not None
        self._deliver(Step(token_id, logprobs, reason))

    def fail(self, error: Exception) -> None:
        """End with an error."""
        self.finished = True
        self._deliver(error)

    def cancel(self) -> None:
        """Ask the engine to drop the sequence at its next step; nothing more is handed out."""
        self.cancelled = True

    def _deliver(self, step: Step | Exception) -> None:
        if self.cancelled:
            return
        try:
            self._on_step(step)
        except Exception:  # a listener that is gone ends its sequence, never the engine
            self.cancelled = True


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


class Waiting:
    """Sequences that wait, by the request that they belong to: the requests take turns."""

    def __init__(self) -> None:
        self._by_request: OrderedDict[Hashable, deque[EngineSequence]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, tuple(self._by_request.values())))

    def add(self, sequence: EngineSequence, request: Hashable) -> None:
        """Behind the request's others; a request that is new, behind the other requests."""
        self._by_request.setdefault(request, deque()).append(sequence)

    def next(self) -> EngineSequence:
        """The next sequence; its request is then the last to have another turn."""
        request, sequences = self._by_request.popitem(last=False)
        sequence = sequences.popleft()
        if sequences:
            self._by_request[request] = sequences
        return sequence

    def remove(self, sequence: EngineSequence, request: Hashable) -> None:
        """Forget a sequence, if it still waits."""
        sequences = self._by_request.get(request, deque())
        if sequence in sequences:
            sequences.remove(sequence)
            if not sequences:
                del self._by_request[request]


class Worker:
    """Runs sequences in one thread; those that wait are taken in turns from each request.

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
        self._waiting = Waiting()
        self._wake = threading.Condition()
        self._closing = False
        self._context = 0
        self._running: Running | None = None
        self._prove: Callable[[], None] = lambda: None
        self._proven = threading.Event()
        self._unproven: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(
        self, running: Running, context: int, prove: Callable[[], None] = lambda: None
    ) -> None:
        """Begin to work with a loaded model that takes ``context`` tokens per sequence.

        Args:
            prove: called first, in the worker's thread, and waited for; what it raises is raised
                here. Libraries keep threads and caches for each thread that computes: so there is
                one.
        """
        self._running, self._context, self._prove = running, context, prove
        self._thread.start()
        self._proven.wait()
        if self._unproven is not None:
            raise self._unproven

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        on_step: OnStep,
        request: Hashable = None,
    ) -> Callable[[], None]:
        """Queue a sequence; returns at once with a function that cancels it.

        Args:
            request: what the sequence is a part of; None: it is by itself.

        Raises:
            ValueError: the prompt is empty, or prompt and ``max_tokens`` pass the context.
        """
        if not prompt_ids or len(prompt_ids) + params.max_tokens > self._context:
            raise ValueError(
                f"{len(prompt_ids)} prompt tokens and {params.max_tokens} to generate do not fit "
                f"a context of {self._context}"
            )
        sequence = EngineSequence(prompt_ids, params, on_step)
        request = sequence if request is None else request
        with self._wake:
            ended = self._closing
            if not ended:
                self._waiting.add(sequence, request)
                self.prompt_tokens += len(prompt_ids)
                self._wake.notify()
        if ended:
            sequence.fail(self.death or _stopped())

        def cancel() -> None:
            sequence.cancel()
            with self._wake:
                self._waiting.remove(sequence, request)

        return cancel

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
        try:
            self._prove()
        except BaseException as error:  # start() raises it
            self._unproven = error
            return
        finally:
            self._proven.set()
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closing or len(self._waiting) or len(running))
                if self._closing:
                    break
            self._advance(running)
        ending = self.death or _stopped()
        running.fail(ending)
        with self._wake:
            left = [self._waiting.next() for _ in range(len(self._waiting))]
        for sequence in left:
            sequence.fail(ending)

    def _advance(self, running: Running) -> None:
        """One round: admit what fits, then one token for who generates."""
        try:
            while running.has_room() and (sequence := self._next()) is not None:
                self._admit(running, sequence)
            self.generated_tokens += running.advance()
        except Exception as error:  # whatever a kernel raises ends these sequences, not the engine
            self._fail(running, error)

    def _fail(self, failing: Running | EngineSequence, error: Exception) -> None:
        told = error if isinstance(error, EngineDied) else self._explain(error)
        failing.fail(told)
        if isinstance(told, EngineDied):  # nothing works after it
            self._end(told)

    def _next(self) -> EngineSequence | None:
        with self._wake:
            return self._waiting.next() if len(self._waiting) else None

    def _admit(self, running: Running, sequence: EngineSequence) -> None:
        try:
            running.admit(sequence)
        except Exception as error:  # it is the only one that notices
            self._fail(sequence, error)


def _stopped() -> ServiceError:
    return ServiceError("the server is shutting down", hint="send the request again")
