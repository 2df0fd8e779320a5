"""A figure that could not be had, and why: never 0, never None."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Unavailable:
    """Stands where a measured figure would; ``reason`` is a clause such as ``no NVIDIA driver``."""

    reason: str

    def __str__(self) -> str:
        return f"unavailable: {self.reason}"
