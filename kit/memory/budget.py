"""Check a measured memory peak against its budget."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from kit.errors import BudgetExceeded
from kit.memory.plan.line import Pool
from kit.memory.unavailable import Unavailable
from kit.units import MIB, format_gib

MeasuredBy = Literal["kernel", "service", "driver-by-process", "driver-by-samples", "torch"]
"""How a figure is known: counted by the kernel, or told by the service itself; counted by the
GPU's driver for the processes now, or in samples taken while they ran (of the processes, else of
what the GPU held more than before); or torch's pool and the CUDA context that is assumed, which is
no proof."""

_UNMEASURED = (
    "let it be measured from its start: kit down, then kit memory assert with its options; "
    "kit doctor shows what the driver tells"
)


@dataclass(frozen=True)
class Budget:
    """What was promised; None: nothing. A model on the CPU has no promise of VRAM."""

    max_ram_bytes: int | None = None
    max_vram_bytes: int | None = None

    def of(self, pool: Pool) -> int | None:
        """Bytes that were promised of ``pool``."""
        return self.max_vram_bytes if pool is Pool.DEVICE else self.max_ram_bytes

    def on(self, device: str) -> "Budget":
        """What of it holds for a model on ``device``, such as ``cpu`` or ``cuda:0``."""
        return replace(self, max_vram_bytes=None) if device == "cpu" else self


def default_ram_budget(planned_bytes: int) -> int:
    """Host RAM allowed where nobody says: the plan and a quarter, at least 256 MiB more.

    The libraries' own share differs from machine to machine (cores, allocator, build of torch).
    """
    return planned_bytes + max(planned_bytes // 4, 256 * MIB)


@dataclass(frozen=True)
class Measured:
    """What a run took at its peak, and how that is known; None: nobody said."""

    host_peak_bytes: int | Unavailable
    device_peak_bytes: int | Unavailable
    host_by: MeasuredBy | None = None
    device_by: MeasuredBy | None = None


@dataclass(frozen=True)
class Verdict:
    """The figure of one pool, checked against its budget."""

    pool: Pool
    peak_bytes: int | Unavailable
    budget_bytes: int
    measured_by: MeasuredBy | None = None

    @property
    def passed(self) -> bool:
        """Measured, and within the budget."""
        return isinstance(self.peak_bytes, int) and self.peak_bytes <= self.budget_bytes

    def __str__(self) -> str:
        budget = format_gib(self.budget_bytes)
        if isinstance(self.peak_bytes, Unavailable):
            return f"peak {self.pool.label} could not be measured ({self.peak_bytes.reason})"
        if self.passed:
            return f"peak {self.pool.label} {format_gib(self.peak_bytes)} within {budget}"
        peak, over = format_gib(self.peak_bytes), format_gib(self.peak_bytes - self.budget_bytes)
        return f"peak {self.pool.label} {peak}, {over} over the budget of {budget}"


def assess(budget: Budget, measured: Measured) -> tuple[Verdict, ...]:
    """A verdict for every figure that was promised."""
    figures = {
        Pool.HOST: (measured.host_peak_bytes, measured.host_by),
        Pool.DEVICE: (measured.device_peak_bytes, measured.device_by),
    }
    return tuple(
        Verdict(pool, peak_bytes, allowed, by)
        for pool, (peak_bytes, by) in figures.items()
        if (allowed := budget.of(pool)) is not None
    )


def require(verdicts: Sequence[Verdict]) -> None:
    """Return when every verdict passed.

    Raises:
        BudgetExceeded: a peak passed its budget, or was promised and could not be measured.
    """
    failed = [verdict for verdict in verdicts if not verdict.passed]
    if not failed:
        return
    over = [verdict.pool.flag for verdict in failed if isinstance(verdict.peak_bytes, int)]
    less = f"ask for less (--context, --max-sequences), or allow more with {' and '.join(over)}"
    raise BudgetExceeded(
        "; ".join(str(verdict) for verdict in failed), hint=less if over else _UNMEASURED
    )
