"""What a check found: status, evidence, remedy; and the phrases that checks share."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from kit.doctor.facts import Version
from kit.memory.probes.nvml import Gpu, GpuProcess
from kit.memory.unavailable import Unavailable
from kit.units import format_gib


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


def size(value: int | Unavailable | None) -> str:
    """A size for people; None is no limit."""
    if value is None:
        return "unlimited"
    return "unknown" if isinstance(value, Unavailable) else format_gib(value)


def cuda(version: Version | Unavailable) -> str:
    """``CUDA 12.8``."""
    return "an unknown CUDA" if isinstance(version, Unavailable) else f"CUDA {dotted(version)}"


def dotted(version: Sequence[int]) -> str:
    """``12.8`` of (12, 8)."""
    return ".".join(str(number) for number in version)


def less(remedy: str) -> str:
    """The remedy for too little memory, and the other way: to need less of it."""
    return f"{remedy}; or ask for less with --context and --max-sequences"


def many(count: int, what: str) -> str:
    """``1 GPU``, ``2 GPUs``."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def holders(gpu: Gpu) -> str:
    """Who holds the GPU's memory, the largest first."""
    if isinstance(gpu.processes, Unavailable):
        return f"programs unknown: {gpu.processes.reason}"
    return ", ".join(_holder(process) for process in gpu.processes) or "no program that NVML lists"


def _holder(process: GpuProcess) -> str:
    name = "a program" if isinstance(process.name, Unavailable) else process.name
    held = "" if isinstance(process.used_bytes, Unavailable) else f" {size(process.used_bytes)}"
    return f"{name} ({process.pid}){held}"
