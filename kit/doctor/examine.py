"""One examination: gather what checks read, run them, sum up; before a start, refuse."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from kit.doctor.check import Check, Result, run
from kit.doctor.finding import Finding, Status
from kit.doctor.gather import Watch, gather
from kit.doctor.registry import CHECKS, needed
from kit.doctor.request import Decided, Request
from kit.errors import EnvironmentNotReady, UsageError
from kit.memory.unavailable import Unavailable
from kit.runtime.protocol import Running
from kit.service.intent import Intent
from kit.service.preflight import NOTHING, held_by


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


LOCAL = (
    "python.packages",
    "torch.build",
    "torch.driver",
    "torch.architecture",
    "memory.ram",
    "memory.cgroup",
    "memory.address-space",
    "gpu.memory",
)
"""Before `kit up` starts a local process."""

CONTAINER = (
    "docker.engine",
    "docker.compose",
    "docker.toolkit",
    "image.driver",
    "image.architecture",
    "memory.ram",
    "gpu.memory",
)
"""Before `kit up` starts a container."""

FETCH = ("disk.writable", "clock.plausible")
"""Before `kit weights fetch` asks for anything; room is checked when the sizes are known."""


def require(ids: Collection[str], request: Request) -> tuple[str, ...]:
    """Return when none of the checks ``ids`` fails: warnings for what may go wrong.

    What they require is run too, but only a failure of ``ids`` themselves refuses; one that had to
    be skipped refuses nothing. The network is asked only if ``ids`` name a check that does so.

    Args:
        request: with ``decided`` it is about what is to be started, else about what `kit up` would
            start.

    Raises:
        EnvironmentNotReady: a check failed; message and hint are its summary and remedy, with the
            evidence where the summary does not carry it.
    """
    report = examine(request, checks=with_requirements(ids))
    named = [result.finding for result in report.results if result.check.id in ids]
    failed = [finding for finding in named if finding.status is Status.FAIL]
    if failed:
        raise EnvironmentNotReady(_message(failed[0]), hint=_hint(failed))
    return tuple(
        f"{finding.summary}; {finding.remedy}" for finding in named if finding.status is Status.WARN
    )


def before_start(
    intent: Intent, leaving: Running | None, environ: Mapping[str, str]
) -> tuple[str, ...]:
    """Whether this machine can run ``intent``: the :data:`kit.service.intent.Examine` of `kit up`.

    Args:
        leaving: the service that ends for it, and gives its memory back.

    Raises:
        EnvironmentNotReady: see :func:`require`.
    """
    pid = leaving.pid if leaving else Unavailable("nothing leaves")
    freed = NOTHING if isinstance(pid, Unavailable) else held_by(pid)
    decided = Decided(
        intent.spec.name, intent.plan, intent.build, intent.gpus, intent.runtime, freed
    )
    image = {"KIT_IMAGE": intent.image.name} if intent.image else {}
    request = Request(intent.settings, {**environ, **image}, decided=decided)
    return require(CONTAINER if intent.runtime == "container" else LOCAL, request)


def _message(finding: Finding) -> str:
    seen = finding.evidence[0]
    if seen.observed in finding.summary:
        return finding.summary
    return f"{finding.summary} ({seen.source}: {seen.observed})"


def _hint(failed: list[Finding]) -> str:
    """The first remedy, what else is wrong, and the way past all of it."""
    more = "".join(f"; also: {finding.summary}" for finding in failed[1:])
    return f"{failed[0].remedy}{more}; --no-preflight goes on nevertheless"
