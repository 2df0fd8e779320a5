"""What a check found: a status, the evidence for it, and the remedy."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a check ended. ERROR: the check itself crashed, which is a fault of the kit."""

    PASS = "pass"  # noqa: S105  (not a password)
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"
    ERROR = "error"


@dataclass(frozen=True)
class Evidence:
    """One observation: where it was made, what was seen there, and what would be right."""

    source: str
    observed: str
    expected: str


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        summary: one sentence or clause, without a full stop.
        remedy: the command or step that mends it.

    Raises:
        ValueError: WARN or FAIL without evidence and remedy; that cannot be built.
    """

    status: Status
    summary: str
    evidence: tuple[Evidence, ...] = ()
    remedy: str | None = None

    def __post_init__(self) -> None:
        if self.status in (Status.WARN, Status.FAIL) and not (self.evidence and self.remedy):
            raise ValueError(f"{self.status} without evidence and remedy: {self.summary}")


def passed(summary: str, *evidence: Evidence) -> Finding:
    """All is well."""
    return Finding(Status.PASS, summary, evidence)


def warning(summary: str, *evidence: Evidence, remedy: str) -> Finding:
    """It works, or may work, but not as it could."""
    return Finding(Status.WARN, summary, evidence, remedy)


def failure(summary: str, *evidence: Evidence, remedy: str) -> Finding:
    """It will not work."""
    return Finding(Status.FAIL, summary, evidence, remedy)


def skipped(reason: str) -> Finding:
    """There is nothing to check, or no way to."""
    return Finding(Status.SKIP, reason)
