"""Who hears how a long command goes on: the terminal, or nobody in a test."""

from typing import Protocol


class Listener(Protocol):
    """Receives what happens, as it happens."""

    def say(self, text: str) -> None:
        """One line of what was done or found."""
        ...

    def progress(self, phase: str, fraction: float | None) -> None:
        """``phase`` is under way; ``fraction`` of it is done, from 0.0 to 1.0, if that is known."""
        ...
