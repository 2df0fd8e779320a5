"""What moving a file is asked for, watched by, and ends with: words that its ways share."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from kit.errors import IntegrityError


@dataclass(frozen=True)
class Expected:
    """What a file must be, as far as it is known beforehand.

    Attributes:
        plausible_bytes: sizes that it may have, where the very size is not known.
    """

    size_bytes: int | None = None
    sha256: str | None = None
    plausible_bytes: range | None = None

    def other_size(self, found_bytes: int) -> str | None:
        """Which size it should have, in words; None: it may have this one."""
        plausible = self.plausible_bytes
        if self.size_bytes is not None:
            return None if found_bytes == self.size_bytes else str(self.size_bytes)
        if plausible is None or found_bytes in plausible:
            return None
        return f"{plausible.start} to {plausible.stop - 1}"


@dataclass(frozen=True)
class Arrived:
    """What a file turned out to be."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Watch:
    """Called while a transfer runs.

    Attributes:
        progress: with bytes done and bytes in all (0 where the server does not tell).
        notice: with a line for the user: a connection lost, a file that changed.
    """

    progress: Callable[[int, int], None] = lambda done, total: None
    notice: Callable[[str], None] = lambda text: None

    def part(self, before_bytes: int, total_bytes: int) -> "Watch":
        """The same, for one file of several: ``before_bytes`` of ``total_bytes`` are done."""

        def progress(done: int, of: int) -> None:
            self.progress(before_bytes + done, max(total_bytes, before_bytes + of))

        return replace(self, progress=progress)


Keep = Callable[[Arrived], None]
"""Called with what a file turned out to be, just before it gets its name.

What it writes is then there whenever the file is, even if the process is killed in between.
"""


def keep_nothing(arrived: Arrived) -> None:
    """The ``Keep`` of a transfer that nobody records."""


ELSEWHERE = "try another --source or --mirror"
"""What helps where a server has the wrong file."""


def require_size(
    target: Path, found_bytes: int, expected: Expected, origin: str, remedy: str = ELSEWHERE
) -> None:
    """Refuse another size than expected before a byte is moved."""
    wanted = expected.other_size(found_bytes)
    if wanted is not None:
        raise IntegrityError(
            f"{origin} has {found_bytes} bytes for {target.name}, {wanted} are expected",
            hint=f"this is another file; {remedy}",
        )


def require_digest(
    target: Path, found: str, expected: Expected, origin: str, remedy: str = ELSEWHERE
) -> None:
    """Refuse other content than expected.

    Raises:
        IntegrityError: it names both digests. The caller has removed what arrived.
    """
    if expected.sha256 not in (None, found):
        raise IntegrityError(
            f"{target.name} from {origin} has sha256 {found}, {expected.sha256} is expected; "
            "what arrived was removed",
            hint="the data was damaged on its way, or it is another file: "
            f"run the same command again, or {remedy}",
        )
