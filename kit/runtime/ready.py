"""Wait until a started service is ready, or find out why it never will be."""

import time
from collections.abc import Callable, Iterator

from kit.errors import KitError, ServiceError
from kit.memory.probes.proc import process_stat
from kit.memory.unavailable import Unavailable
from kit.runtime import postmortem
from kit.runtime.client import Client, Failed, Loading, Ready, Silent
from kit.runtime.postmortem import Lived
from kit.runtime.protocol import Listener, Running, Runtime

LivedSoFar = Callable[[], Lived]
# Ten looks a second: nobody notices a tenth, and a look costs the server a millisecond.
POLL_SECONDS = 0.1
_HANGS = 3
"""Probes in a row that a listening server may leave unanswered, and meanwhile not work at all,
before it counts as hung. One that works is slow: the time that it is given decides."""
_PHASES = {
    "startup": "importing the engine",
    "weights": "loading the weights",
    "verifying": "verifying the weights",
    "kv-cache": "allocating the KV cache",
    "warm-up": "warming up",
}
"""What the server's phases are called on a terminal."""
_STARTING = "starting the server"
# A server that has failed says so first, then frees its memory, then ends.
_LAST_WORDS_SECONDS = 5.0
# The end of a traceback with the line that matters, on half a screen.
_LOG_LINES = 12


def wait_ready(
    runtime: Runtime,
    started: Running,
    client: Client,
    timeout_seconds: float,
    listener: Listener,
    lived: LivedSoFar = Lived,
) -> Ready:
    """Block until the service, ``started`` before, is ready, passing on phase and progress.

    Args:
        lived: tells what was seen of it, for the case that it dies.

    Raises:
        ServiceError: it died, hangs, says that it failed, or took longer than ``timeout_seconds``.
        EnvironmentNotReady, IntegrityError: it died and said so itself.
        BudgetExceeded: its container was killed at its memory limit.
    """
    deadline = time.monotonic() + timeout_seconds
    phase, hangs, worked = _STARTING, 0, _work(runtime)
    while time.monotonic() < deadline:
        require_alive(runtime, started, listener, lived)
        match client.health():
            case Ready() as ready:
                return ready
            case Failed() as failed:
                _await_end(runtime, started, listener, lived)
                raise postmortem.refusal(failed)
            case Loading(name, fraction):
                phase, hangs = _PHASES.get(name, name), 0
                listener.progress(phase, fraction)
            case Silent(reason, refused):
                before, worked = worked, _work(runtime)
                hangs = 0 if refused or worked is None or worked != before else hangs + 1
                if hangs == _HANGS:
                    raise ServiceError(
                        f"the server hangs: {reason}", hint="start it again: kit down, kit up"
                    )
                listener.progress(_STARTING, None)
        time.sleep(POLL_SECONDS)
    show_log(runtime, listener)
    raise ServiceError(
        f"not ready after {timeout_seconds:.0f} s, while {phase}",
        hint="see kit logs; if it only needs longer, give it more seconds with --timeout",
    )


def _work(runtime: Runtime) -> int | None:
    """Processor time that the service has had, in clock ticks; None: it cannot be told."""
    pids = runtime.processes()
    if isinstance(pids, Unavailable):
        return None
    found = [process_stat(pid) for pid in pids]
    return sum(each.cpu_ticks for each in found if not isinstance(each, Unavailable))


def require_alive(
    runtime: Runtime, started: Running, listener: Listener, lived: LivedSoFar = Lived
) -> Running:
    """The running service.

    Raises:
        KitError: it was stopped by someone else, or died (and may have been started again by the
            engine since); then its last log lines are shown.
    """
    running = runtime.status()
    if running is None:
        raise ServiceError(
            "the service was stopped by another command", hint="start it again: kit up"
        )
    if not running.alive or running.restarts > started.restarts:
        raise death(runtime, running, listener, lived)
    return running


def require_no_death(
    runtime: Runtime,
    started: Running,
    client: Client,
    listener: Listener,
    lived: LivedSoFar = Lived,
) -> None:
    """Return when the service answers, or at least does not end within a moment.

    Raises:
        KitError: it did; why.
    """
    if isinstance(client.health(), Silent):
        _await_end(runtime, started, listener, lived)


def death(
    runtime: Runtime, running: Running, listener: Listener, lived: LivedSoFar = Lived
) -> KitError:
    """Show the last log lines of a dead service; returns the error that explains them."""
    show_log(runtime, listener)
    return cause_of_death(runtime, running, lived)


def cause_of_death(runtime: Runtime, running: Running, lived: LivedSoFar = Lived) -> KitError:
    """The error that explains why a service has ended."""
    return postmortem.explain(running, list(_last_lines(runtime)), lived())


def show_log(runtime: Runtime, listener: Listener) -> None:
    """Pass on the last lines that the present run logged."""
    for line in _last_lines(runtime):
        listener.say(f"  log │ {line}")


def _last_lines(runtime: Runtime) -> Iterator[str]:
    return runtime.logs(_LOG_LINES, this_run=True)


def _await_end(runtime: Runtime, started: Running, listener: Listener, lived: LivedSoFar) -> None:
    """A server that failed to load ends itself, with a better exit code than we could choose."""
    deadline = time.monotonic() + _LAST_WORDS_SECONDS
    while time.monotonic() < deadline:
        require_alive(runtime, started, listener, lived)
        time.sleep(POLL_SECONDS)
    show_log(runtime, listener)
