"""Tokens to text while they come: each character once, as soon as it is certain."""

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
