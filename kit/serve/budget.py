"""The memory budget of a service that runs: held again and again while it serves."""

import logging
import threading
from collections.abc import Callable

from kit.errors import BudgetExceeded
from kit.memory.hold import Budget, Measured, hold, require
from kit.serve.readiness import Readiness

logger = logging.getLogger("kit.serve")

CHECK_SECONDS = 2.0


class BudgetWatch:
    """Ends readiness once a measured peak passes the budget, or cannot be measured any more.

    The process goes on: running requests may finish, and whoever restarts what is unhealthy or
    has exited does not load a model again and again that does not fit.

    Args:
        budget: what was promised.
        readiness: is told of a breach.
        measure: the peaks so far.
        check_seconds: between two looks.
    """

    def __init__(
        self,
        budget: Budget,
        readiness: Readiness,
        measure: Callable[[], Measured],
        *,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        self._budget, self._readiness, self._measure = budget, readiness, measure
        self._check_seconds = check_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="budget", daemon=True)

    def start(self) -> None:
        """Begin to look, in a thread of its own; nothing promised, nothing to do."""
        if self._budget != Budget():
            self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(self._check_seconds):
            try:
                require(hold(self._budget, self._measure()))
            except BudgetExceeded as breach:
                logger.error("memory budget: %s; not ready any more", breach.message)
                self._readiness.fail(breach)
                return
