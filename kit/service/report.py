"""What `kit up` did and measured."""

from dataclasses import dataclass
from pathlib import Path

from kit.memory.budget import Measured, Verdict
from kit.memory.plan import Plan
from kit.memory.unavailable import Unavailable
from kit.proof.receipt import MeasuredWork
from kit.runtime.client import Ready, base_url
from kit.runtime.protocol import ServeSpec
from kit.service.model import Model


@dataclass(frozen=True)
class UpReport:
    """A service that came up, or was up, and was asked one question.

    Attributes:
        where: what it runs in, such as ``process 4711``.
        started: whether this call started it (else it already ran).
        seconds: from the call to the first answer.
        answer: None where a service that already ran was too busy to be asked.
        verdicts: the measured peaks checked against their budgets; when one failed, the service has
            been stopped.
        work: that it did before its peaks were measured; None: it did nothing but answer, and
            ``skipped`` says why.
        receipt: where it was written; None: there is none of a service that already ran.
    """

    model: Model
    spec: ServeSpec
    plan: Plan
    ready: Ready
    where: str
    pid: int | Unavailable
    started: bool
    seconds: float
    question: str
    answer: str | None
    measured: Measured
    verdicts: tuple[Verdict, ...]
    work: MeasuredWork | None = None
    skipped: str | None = None
    receipt: Path | None = None

    @property
    def url(self) -> str:
        """Base URL for OpenAI clients."""
        return base_url(self.spec.host, self.spec.port) + "/v1"

    @property
    def within_budget(self) -> bool:
        """Whether the service may go on running."""
        return all(verdict.passed for verdict in self.verdicts)

    @property
    def failure(self) -> str:
        """Why it may not; a peak that was promised and not measured counts like a breach."""
        over = any(
            v.peak_bytes > v.budget_bytes for v in self.verdicts if isinstance(v.peak_bytes, int)
        )
        return "it took more memory than its budget" if over else "its peak was not measured"
