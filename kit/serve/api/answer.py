"""One choice: the engine's steps become chunks of text."""

from collections.abc import Sequence
from dataclasses import dataclass

from kit.serve.engine import FinishReason, Logprobs, Step
from kit.serve.tokenizer import InContextDecoder

_WINDOW = 16
"""Tokens decoded again as context; far more than the bytes of a character."""

_LONGEST_UNFINISHED = 3
"""A UTF-8 character has up to four bytes, so up to three can be waiting for their last."""


class Detokenizer:
    """Text of one sequence. Cost is linear: only a sliding window is ever decoded again."""

    def __init__(self, decoder: InContextDecoder) -> None:
        self._decoder = decoder
        self._window: list[int] = []
        self._given = 0  # characters of the window's text that were returned

    def add(self, token_id: int) -> str:
        """The new text that is certain once this token is known; may be empty."""
        if not self._decoder.token(token_id).raw:
            return ""
        self._window.append(token_id)
        text = self._decoder.text(self._window)
        new = text[self._given : len(text) - _unfinished(text)]
        self._given += len(new)
        if len(self._window) == 2 * _WINDOW:
            self._slide(len(text) - self._given)
        return new

    def finish(self) -> str:
        """What still waited for bytes that will not come."""
        rest = self._decoder.text(self._window)[self._given :]
        self._given += len(rest)
        return rest

    def _slide(self, waiting: int) -> None:
        del self._window[:_WINDOW]
        self._given = len(self._decoder.text(self._window)) - waiting


def _unfinished(text: str) -> int:
    """How many characters at the end may be the beginning of one that is not complete."""
    tail = text[-_LONGEST_UNFINISHED:]
    return len(tail) - len(tail.rstrip("\ufffd"))


class StopScanner:
    """Passes text on until a stop string is complete; that and what follows is never passed on.

    Where several could end the text, the one that is complete first does, and of those the longest:
    how the text is cut into pieces makes no difference.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def add(self, text: str) -> tuple[str, bool]:
        """Text that can be passed on, and whether a stop string has ended it."""
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)[1]], True
        sure = len(text) - self._beginning_of_a_stop(text)
        self._held = text[sure:]
        return text[:sure], False

    def finish(self) -> str:
        """The held-back text, when no more comes."""
        held, self._held = self._held, ""
        return held

    def _beginning_of_a_stop(self, text: str) -> int:
        """Length of the longest end of ``text`` that a stop string begins with."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0


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
