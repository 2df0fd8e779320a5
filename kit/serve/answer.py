"""One choice: the engine's steps become chunks of text."""

from collections.abc import Sequence
from dataclasses import dataclass

from kit.serve.detokenize import Detokenizer
from kit.serve.engine import FinishReason, Logprobs, Step
from kit.serve.stops import StopScanner
from kit.serve.tokenizer import InContextDecoder


@dataclass(frozen=True)
class ScoredToken:
    """A token with its log-probabilities. ``text_offset`` counts the answer's characters before."""

    token_id: int
    text_offset: int
    logprobs: Logprobs


@dataclass(frozen=True)
class Chunk:
    """The next piece of an answer.

    Attributes:
        generated: tokens generated for this choice so far, the end token included.
        finish_reason: set on the last chunk.
    """

    text: str
    scored: tuple[ScoredToken, ...]
    generated: int
    finish_reason: FinishReason | None

    def says_something(self) -> bool:
        """False when the step only changed what is held back."""
        return bool(self.text or self.scored or self.finish_reason)


class Answer:
    """Text of one sequence, up to its end token or the first stop string."""

    def __init__(self, decoder: InContextDecoder, stops: Sequence[str]) -> None:
        self._detokenizer = Detokenizer(decoder)
        self._stops = StopScanner(stops)
        self._scored: list[ScoredToken] = []
        self._decoded_length = 0
        self._sent_length = 0
        self._generated = 0

    def add(self, step: Step) -> Chunk:
        """The chunk that this step completes; it may be empty.

        A step that finishes with "stop" is the end token, which has no text.
        """
        self._generated += 1
        decoded = ""
        if step.finish_reason != "stop":
            if step.logprobs is not None:
                scored = ScoredToken(step.token_id, self._decoded_length, step.logprobs)
                self._scored.append(scored)
            decoded = self._detokenizer.add(step.token_id)
        if step.finish_reason is not None:
            decoded += self._detokenizer.finish()
        self._decoded_length += len(decoded)
        return self._chunk(decoded, step.finish_reason)

    def _chunk(self, decoded: str, finish_reason: FinishReason | None) -> Chunk:
        text, stopped = self._stops.add(decoded)
        if stopped:
            finish_reason = "stop"
        elif finish_reason is not None:
            text += self._stops.finish()
        self._sent_length += len(text)
        everything = finish_reason is not None and not stopped
        ready = [s for s in self._scored if everything or s.text_offset < self._sent_length]
        del self._scored[: len(ready)]
        return Chunk(text, tuple(ready), self._generated, finish_reason)
