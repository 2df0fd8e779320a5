"""`kit status` and `kit health`: what should run, whether it does, and what is known of it."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from kit.errors import KitError, ServiceError
from kit.memory.timeline import Run
from kit.proof.receipt import now, run_of
from kit.runtime.client import Client, Failed, Health, Loading, Ready, Silent, base_url
from kit.runtime.protocol import (
    Details,
    Listener,
    Running,
    Runtime,
    RuntimeName,
    Service,
    current,
)
from kit.runtime.ready import cause_of_death
from kit.service.recall import Proven, recall_plan


def details(service: Service) -> Details | None:
    """Of a service; None where it does not run."""
    return service.runtime.details(service.running) if service.running.alive else None


StateName = Literal["ready", "loading", "failed", "silent", "dead", "stopped"]


@dataclass(frozen=True)
class Status:
    """The service now.

    Attributes:
        state: ``stopped``: nothing was started. ``dead``: it was, and its process is gone.
            ``silent``: its process is there, but does not answer (yet).
        detail: one line that says more.
    """

    state: StateName
    detail: str
    running: Running | None
    health: Health | None

    @property
    def exit_code(self) -> int:
        """0 ready, 1 stopped (nothing should run), 6 it should run and is not ready."""
        return {"ready": 0, "stopped": 1}.get(self.state, 6)


def status(runtime: Runtime, port: int) -> Status:
    """The service that `kit up` started; if none, a word on an orphaned one on ``port``."""
    running = runtime.status()
    if running is None:
        orphan = runtime.orphan(port)
        detail = orphan.text if orphan else "not running; start it: kit up"
        return Status("stopped", detail, None, None)
    if not running.alive:
        why = cause_of_death(runtime, running)
        detail = f"died: {running.where} {running.fate}; {why.message}\n  {why.hint}"
        return Status("dead", detail, running, None)
    found = health(base_url(running.spec.host, running.spec.port))
    return Status(found.state, found.detail, running, found.health)


def health(url: str) -> Status:
    """Readiness of whatever serves at ``url``, whoever started it."""
    reply = Client(url).health()
    match reply:
        case Ready(model=model, device=device, dtype=dtype, breach=breach, passed_peaks=passed):
            over = f"\n  over its memory budget: {breach}" if breach else ""
            over += "".join(f"\n  was over its memory budget: {peak}" for peak in passed)
            told = f"ready: {model} on {device} in {dtype}, {url}/v1{over}"
            return Status("ready", told, None, reply)
        case Loading(phase, fraction):
            return Status("loading", f"loading: {phase} {fraction:.0%}", None, reply)
        case Failed(error=error, hint=hint):
            return Status("failed", f"failed: {error} ({hint})", None, reply)
        case Silent(reason):
            return Status("silent", f"no answer from {url}: {reason}", None, reply)


_POLL_SECONDS = 0.1


def await_service(
    runtimes: Mapping[RuntimeName, Runtime], listener: Listener, seconds: float | None
) -> Service:
    """The service that runs, or the next that is started.

    Raises:
        ServiceError: none was within ``seconds``.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        found = current(runtimes)
        if found is not None and found.running.alive:
            return found
        if deadline is not None and time.monotonic() > deadline:
            raise ServiceError(
                f"nothing was started within {seconds:.0f} s", hint="in another terminal: kit up"
            )
        listener.progress("waiting for a service (in another terminal: kit up)", None)
        time.sleep(_POLL_SECONDS)


def run_of_service(
    service: Service, listener: Listener, environ: Mapping[str, str] = os.environ
) -> Run:
    """What the timeline of a running service is of; without a plan where that cannot be had."""
    spec = service.running.spec
    try:
        plan = recall_plan(Proven(service.runtime.name, spec), environ)
    except KitError as error:
        listener.say(f"there is no plan to compare with: {error.message}")
        return run_of(spec, None, now())
    return run_of(spec, plan, now())
