"""The doctor before something starts: only the checks that would end it badly, and they refuse."""

from collections.abc import Collection

from kit.doctor.examine import examine, with_requirements
from kit.doctor.finding import Finding, Status
from kit.doctor.request import Request
from kit.errors import EnvironmentNotReady

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


def _message(finding: Finding) -> str:
    seen = finding.evidence[0]
    if seen.observed in finding.summary:
        return finding.summary
    return f"{finding.summary} ({seen.source}: {seen.observed})"


def _hint(failed: list[Finding]) -> str:
    """The first remedy, what else is wrong, and the way past all of it."""
    more = "".join(f"; also: {finding.summary}" for finding in failed[1:])
    return f"{failed[0].remedy}{more}; --no-preflight goes on nevertheless"
