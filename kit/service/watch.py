"""`kit memory watch`: which service there is to watch, and what is known of it."""

import os
import time
from collections.abc import Mapping

from kit.errors import KitError, ServiceError
from kit.memory.timeline import Run
from kit.proof.evidence import now, run_of
from kit.runtime.protocol import Listener, Running, Runtime, RuntimeName, current
from kit.service.history import Proven
from kit.service.recall import recall_plan

_POLL_SECONDS = 0.1


def await_service(
    runtimes: Mapping[RuntimeName, Runtime], listener: Listener, seconds: float | None
) -> tuple[Runtime, Running]:
    """The service that runs, or the next that is started.

    Raises:
        ServiceError: none was within ``seconds``.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        found = current(runtimes)
        if found is not None and found[1].alive:
            return found
        if deadline is not None and time.monotonic() > deadline:
            raise ServiceError(
                f"nothing was started within {seconds:.0f} s", hint="in another terminal: kit up"
            )
        listener.progress("waiting for a service (in another terminal: kit up)", None)
        time.sleep(_POLL_SECONDS)


def run_of_service(
    runtime: Runtime,
    running: Running,
    listener: Listener,
    environ: Mapping[str, str] = os.environ,
) -> Run:
    """What the timeline of a running service is of; without a plan where that cannot be had."""
    spec = running.spec
    try:
        plan = recall_plan(Proven(runtime.name, spec), environ)
    except KitError as error:
        listener.say(f"there is no plan to compare with: {error.message}")
        return run_of(spec, None, now())
    return run_of(spec, plan, now())
