"""What a check is, and how several are run."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from kit.doctor.facts import Facts
from kit.doctor.finding import Evidence, Finding, Status, skipped
from kit.memory.unavailable import Unavailable

T = TypeVar("T")
Judge = Callable[[Facts], Finding]


@dataclass(frozen=True)
class Check:
    """One question to the facts.

    Attributes:
        id: stable, ``area.name``.
        title: what is checked, as a clause.
        reads: the facts it looks at.
        requires: ids of checks that must pass for this one to make sense.
        judge: the answer. A pure function.
    """

    id: str
    title: str
    reads: tuple[str, ...]
    requires: tuple[str, ...]
    judge: Judge

    @property
    def area(self) -> str:
        """What it belongs to: the id up to the dot."""
        return self.id.partition(".")[0]


def check(
    name: str, title: str, *, reads: Sequence[str], requires: Sequence[str] = ()
) -> Callable[[Judge], Check]:
    """Make a check out of the function below."""
    return lambda judge: Check(name, title, tuple(reads), tuple(requires), judge)


class UnknownFactError(Exception):
    """A check needs a fact that could not be had."""


def known(fact: T | Unavailable) -> T:
    """The fact; where it could not be had, the check is skipped and says why."""
    if isinstance(fact, Unavailable):
        raise UnknownFactError(fact.reason)
    return fact


@dataclass(frozen=True)
class Result:
    """A check and what it found.

    Attributes:
        cause: id of the check that had to pass for this one; None: it was not in the way.
    """

    check: Check
    finding: Finding
    cause: str | None = None


def run(checks: Sequence[Check], facts: Facts, skip: Collection[str] = ()) -> tuple[Result, ...]:
    """The findings of ``checks``, in their order.

    A check is skipped when one that it requires did not pass, and names the first cause. What the
    user skips (``skip``) is not shown, and counts nevertheless where others require it. A check
    that crashes is an ERROR.
    """
    results: dict[str, Result] = {}
    causes: dict[str, str] = {}
    for each in checks:
        blocked = next((causes[name] for name in each.requires if name in causes), None)
        finding = skipped(f"needs {blocked}") if blocked else _judge(each, facts)
        if finding.status is not Status.PASS:
            causes[each.id] = blocked or each.id
        if each.id in skip:
            finding, blocked = skipped("skipped with --skip"), None
        results[each.id] = Result(each, finding, blocked)
    return tuple(results.values())


def _judge(each: Check, facts: Facts) -> Finding:
    try:
        return each.judge(facts)
    except UnknownFactError as error:
        return skipped(str(error))
    except Exception as error:
        return Finding(
            Status.ERROR,
            f"the check itself failed: {type(error).__name__}: {error}",
            (Evidence(_place(error), type(error).__name__, "a finding"),),
            f"please report it; --skip {each.id} silences it",
        )


def _place(error: BaseException) -> str:
    """File and line where it was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "unknown"
