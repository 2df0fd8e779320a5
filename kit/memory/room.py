"""Before anything starts: what is needed of memory and disk, checked against what is there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kit.errors import EnvironmentNotReady
from kit.memory.unavailable import Unavailable
from kit.units import format_gib

Limit = Literal["ram", "cgroup", "address space", "vram", "disk"]
"""What stands in the way of taking more."""


@dataclass(frozen=True)
class Room:
    """What is needed of something, and what of it can be had.

    Attributes:
        required: off, where too little is only worth a warning.
    """

    what: str
    free_bytes: int | Unavailable
    need_bytes: int
    remedy: str
    limit: Limit = "ram"
    required: bool = True

    @property
    def problem(self) -> str | None:
        """What is wrong, with need and have; None: it suffices, or it is not known."""
        if isinstance(self.free_bytes, Unavailable) or self.free_bytes >= self.need_bytes:
            return None
        return (
            f"not enough {self.what}: {format_gib(self.need_bytes)} needed, "
            f"{format_gib(self.free_bytes)} there"
        )


def require_room(rooms: Sequence[Room], otherwise: str) -> tuple[str, ...]:
    """Return when there is enough of everything required: warnings for the rest.

    ``otherwise`` says what else can be done, after the remedy.

    Raises:
        EnvironmentNotReady: something is too small; the message names need and have.
    """
    warnings = []
    for room in rooms:
        if isinstance(room.free_bytes, Unavailable):
            warnings.append(f"{room.what} unknown: {room.free_bytes.reason}")
        elif room.problem and room.required:
            raise EnvironmentNotReady(room.problem, hint=f"{room.remedy}; {otherwise}")
        elif room.problem:
            warnings.append(f"{room.problem}; {room.remedy}")
    return tuple(warnings)
