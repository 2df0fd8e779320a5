"""Areas ``network`` and ``clock``: what downloads need."""

from collections.abc import Iterator

from kit.doctor.check import check, known
from kit.doctor.facts import Facts, Reply
from kit.doctor.finding import Evidence, Finding, passed, skipped, warning
from kit.memory.unavailable import Unavailable

MOST_SKEW_SECONDS = 90.0
"""Certificates and signed addresses are valid for minutes; servers' clocks differ by seconds."""
_PROXY = "check HTTPS_PROXY and NO_PROXY, or use a mirror"


@check("network.weights", "a source of weights answers", reads=["weights_sources"])
def weights(facts: Facts) -> Finding:
    """The mirror that is set, else any of the catalogue's sources."""
    replies = known(facts.weights_sources)
    answered = [reply for reply in replies if reply.problem is None]
    if answered:
        return passed(f"{answered[0].url} ({answered[0].why})")
    return warning(
        "no source of weights answers",
        *(_evidence(reply) for reply in replies),
        remedy=f"{_PROXY}: KIT_WEIGHTS_MIRROR; or bring them by disk: kit weights bundle",
    )


@check("network.index", "pip finds torch", reads=["index"])
def index(facts: Facts) -> Finding:
    """With pip's own configuration: index, mirrors, certificates."""
    reply = known(facts.index)
    if reply.problem is None:
        return passed(f"pip finds torch ({reply.why})")
    remedy = f"{_PROXY}: PIP_INDEX_URL, PIP_FIND_LINKS or pip config"
    return warning("pip finds no torch", _evidence(reply), remedy=remedy)


@check("network.registry", "the registry of images answers", reads=["registry"])
def registry(facts: Facts) -> Finding:
    """Needed to build or pull an image."""
    reply = known(facts.registry)
    if reply.problem is None:
        return passed(f"{reply.url} ({reply.why})")
    return warning(
        "the registry of images does not answer",
        _evidence(reply),
        remedy='set "registry-mirrors" in /etc/docker/daemon.json, or KIT_BASE_IMAGE to an image '
        "of your own registry",
    )


@check("clock.plausible", "the clock is past what has happened", reads=["clock"])
def plausible(facts: Facts) -> Finding:
    """Held against the kit's own files and locks; needs no network."""
    clock = known(facts.clock)
    now, bound = clock.now.isoformat(" ", "seconds"), clock.not_before.isoformat(" ", "seconds")
    if clock.now < clock.not_before:
        return warning(
            "the clock is behind",
            Evidence("clock", now, f"after {bound}: {clock.because}"),
            remedy="set it: sudo timedatectl set-ntp true; in WSL: sudo hwclock -s",
        )
    return passed(now)


@check(
    "clock.skew",
    "the clock agrees with servers",
    reads=["weights_sources", "registry"],
)
def skew(facts: Facts) -> Finding:
    """By the Date of their answers: a wrong clock breaks TLS."""
    told = list(_told(facts))
    if not told:
        return skipped("no server told the time")
    url, ahead = min(told, key=lambda entry: abs(entry[1]))
    if abs(ahead) > MOST_SKEW_SECONDS:
        direction = "behind" if ahead > 0 else "ahead"
        return warning(
            f"the clock is {abs(ahead):.0f} s {direction}",
            Evidence(f"Date of {url}", f"{ahead:+.0f} s", f"within {MOST_SKEW_SECONDS:.0f} s"),
            remedy="set it: sudo timedatectl set-ntp true; in WSL: sudo hwclock -s",
        )
    return passed(f"within {max(1.0, abs(ahead)):.0f} s of {url}")


def _told(facts: Facts) -> Iterator[tuple[str, float]]:
    sources = () if isinstance(facts.weights_sources, Unavailable) else facts.weights_sources
    for reply in (*sources, facts.registry):
        if isinstance(reply, Reply) and not isinstance(reply.server_ahead_seconds, Unavailable):
            yield reply.url, reply.server_ahead_seconds


def _evidence(reply: Reply) -> Evidence:
    return Evidence(f"{reply.url} ({reply.why})", reply.problem or "an answer", "an answer")
