"""One examination: gather what the chosen checks read, run them, and sum up."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from kit.doctor.check import Check, Result, run
from kit.doctor.finding import Status
from kit.doctor.gather import Watch, gather
from kit.doctor.gather.adapters import needed
from kit.doctor.registry import CHECKS
from kit.doctor.request import Request
from kit.errors import UsageError


@dataclass(frozen=True)
class Report:
    """What all checks found, in the registry's order."""

    results: tuple[Result, ...]

    @property
    def counts(self) -> Counter[Status]:
        """How many checks ended with each status."""
        return Counter(result.finding.status for result in self.results)

    @property
    def worst(self) -> Status:
        """FAIL before ERROR before WARN before PASS."""
        order = (Status.FAIL, Status.ERROR, Status.WARN)
        return next((status for status in order if self.counts[status]), Status.PASS)

    def exit_code(self, *, strict: bool) -> int:
        """1 for a failure; ``strict``: for a warning and for a check that crashed, too."""
        bad = {Status.FAIL, Status.WARN, Status.ERROR} if strict else {Status.FAIL}
        return int(any(self.counts[status] for status in bad))


def examine(
    request: Request,
    *,
    checks: Sequence[Check] = CHECKS,
    skip: Collection[str] = (),
    watch: Watch = lambda waiting: None,
) -> Report:
    """Observe and judge. What only skipped checks would read is not looked at."""
    shown = with_requirements([each.id for each in checks if each.id not in skip], checks)
    reads = {fact for each in shown for fact in each.reads}
    return Report(run(checks, gather(request, needed(reads), watch), skip))


def chosen(names: Collection[str]) -> frozenset[str]:
    """The ids that ``names`` mean: ids themselves, or whole areas.

    Raises:
        UsageError: there is no such check.
    """
    known = {name: {each.id for each in CHECKS if name in (each.id, each.area)} for name in names}
    unknown = [name for name, found in known.items() if not found]
    if unknown:
        raise UsageError(
            f"there is no check {unknown[0]!r}", hint="kit doctor --list-checks shows them all"
        )
    return frozenset().union(*known.values())


def with_requirements(ids: Collection[str], checks: Sequence[Check] = CHECKS) -> tuple[Check, ...]:
    """The checks named, and those that they require, in the order of ``checks``."""
    by_id = {each.id: each for each in checks}
    wanted: set[str] = set()
    wave = set(ids)
    while wave:
        wanted |= wave
        wave = {name for each in wave for name in by_id[each].requires} - wanted
    return tuple(each for each in checks if each.id in wanted)
