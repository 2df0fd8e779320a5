"""Stop strings in a text that comes in pieces."""

from collections.abc import Sequence


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
