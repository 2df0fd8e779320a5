"""The memory budget of a service that runs: compared with what it holds, again and again."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from kit.errors import BudgetExceeded, UsageError
from kit.memory.budget import Budget, Verdict, hold
from kit.serve.footprint import Footprint, Parts
from kit.serve.readiness import Breach, Readiness
from kit.units import MIB, format_gib

logger = logging.getLogger("kit.serve")

# A breach is told before the next scrape of Prometheus (every 5 s, monitoring/prometheus.yml).
CHECK_SECONDS = 2.0
_TIDY_EVERY, _TIDY_BYTES = 5, 16 * MIB
"""Looks between two times that memory is tidied up, and how much more than at first is worth it."""
OnBreach = Literal["unready", "report"]
"""Whether a service over its budget stops answering until it is within it again."""


def read_on_breach(text: str) -> OnBreach:
    """The value of ``KIT_ON_BREACH``.

    Raises:
        UsageError: it is neither.
    """
    for known in get_args(OnBreach):
        if text == known:
            return known  # type: ignore[no-any-return]
    raise UsageError(
        f"KIT_ON_BREACH is {text!r}", hint="set it to unready, or to report, which goes on serving"
    )


class BudgetWatch:
    """Reports a service that holds more than its budget, once what can be given back has been.

    It is over its budget while the figures of now are: the breach ends by itself. A peak that has
    passed without being seen is reported, once. A figure that cannot be measured is no breach. The
    process goes on in any case: whoever restarts what is unhealthy does not load a model again and
    again that does not fit.

    Args:
        budget: what was promised.
        readiness: is told of a breach and of its end.
        look: measures.
        give_back: frees what nobody needs; called when it is over the budget.
        tidy: frees what costs nothing to free; called now and then while it holds more than first.
        on_breach: ``report`` leaves the service ready.
        check_seconds: between two looks.
    """

    def __init__(
        self,
        budget: Budget,
        readiness: Readiness,
        look: Callable[[], Footprint],
        *,
        give_back: Callable[[], None] = lambda: None,
        tidy: Callable[[], None] = lambda: None,
        on_breach: OnBreach = "unready",
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        self._budget, self._readiness, self._look = budget, readiness, look
        self._give_back, self._tidy, self._on_breach = give_back, tidy, on_breach
        self._looks = 0
        self._check_seconds = check_seconds
        self._first: Parts | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="budget", daemon=True)

    def start(self) -> None:
        """Begin to look, in a thread of its own; nothing promised, nothing to do."""
        if self._budget != Budget():
            self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()

    def check(self) -> None:
        """Look once, and tell of a breach that begins or ends."""
        seen = self._look()
        self._first = self._first or seen.parts
        self._looks += 1
        grown = seen.parts.private - self._first.private
        if grown > _TIDY_BYTES and self._looks % _TIDY_EVERY == 0:
            self._tidy()
        if self._over(seen):
            self._give_back()
            seen = self._look()
        over = self._over(seen)
        if over:
            self._begin(over, seen.parts)
        elif self._readiness.breach is not None:
            self._readiness.breach = None
            logger.warning("memory budget: within it again")
        for verdict in hold(self._budget, seen.peaks):
            if isinstance(verdict.peak_bytes, int) and not verdict.passed:
                self._passed(verdict)

    def _run(self) -> None:
        while not self._ended.wait(self._check_seconds):
            try:
                self.check()
            except Exception:  # whatever /proc or a driver does, the next look may succeed
                logger.exception("memory budget: it could not be looked at")

    def _over(self, seen: Footprint) -> list[Verdict]:
        now = hold(self._budget, seen.now)
        return [each for each in now if isinstance(each.peak_bytes, int) and not each.passed]

    def _begin(self, over: Sequence[Verdict], parts: Parts) -> None:
        grown = parts.growth_since(self._first or parts)
        error = "; ".join(map(_now, over)) + (f". Since it was ready: {grown}" if grown else "")
        flags = " and ".join(verdict.flag for verdict in over)
        breach = Breach(
            error,
            f"ask for less (--context, --max-sequences), or allow more with {flags}",
            BudgetExceeded.exit_code,
            ends_readiness=self._on_breach == "unready",
        )
        if self._readiness.breach is None:
            then = "not ready until that ends" if breach.ends_readiness else "it goes on serving"
            logger.error("memory budget: %s; %s", error, then)
        self._readiness.breach = breach

    def _passed(self, verdict: Verdict) -> None:
        if verdict.what not in self._readiness.passed:
            self._readiness.passed[verdict.what] = str(verdict)
            logger.warning("memory budget: %s", verdict)


def _now(verdict: Verdict) -> str:
    assert isinstance(verdict.peak_bytes, int)  # noqa: S101  (it is over its budget)
    over = format_gib(verdict.peak_bytes - verdict.budget_bytes)
    return (
        f"{verdict.what} is {format_gib(verdict.peak_bytes)}, {over} over the budget of "
        f"{format_gib(verdict.budget_bytes)}"
    )
