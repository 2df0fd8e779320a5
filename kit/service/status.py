"""`kit status` and `kit health`: what should run, and whether it does."""

from dataclasses import dataclass
from typing import Literal

from kit.runtime.client import Failed, Health, Loading, Ready, Service, Silent, base_url
from kit.runtime.protocol import Running, Runtime
from kit.runtime.ready import cause_of_death

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
    """The service that `kit up` started; if none, a word on a stray one on ``port``."""
    running = runtime.status()
    if running is None:
        stray = runtime.stray(port)
        detail = stray.text if stray else "not running; start it: kit up"
        return Status("stopped", detail, None, None)
    if not running.alive:
        why = cause_of_death(runtime, running)
        detail = f"died: {running.where} {running.fate}; {why.message}\n  {why.hint}"
        return Status("dead", detail, running, None)
    found = health(base_url(running.spec.host, running.spec.port))
    return Status(found.state, found.detail, running, found.health)


def health(url: str) -> Status:
    """Readiness of whatever serves at ``url``, whoever started it."""
    reply = Service(url).health()
    match reply:
        case Ready(model=model, device=device, dtype=dtype, breach=breach):
            over = f"\n  over its memory budget: {breach}" if breach else ""
            told = f"ready: {model} on {device} in {dtype}, {url}/v1{over}"
            return Status("ready", told, None, reply)
        case Loading(phase, fraction):
            return Status("loading", f"loading: {phase} {fraction:.0%}", None, reply)
        case Failed(error=error, hint=hint):
            return Status("failed", f"failed: {error} ({hint})", None, reply)
        case Silent(reason):
            return Status("silent", f"no answer from {url}: {reason}", None, reply)
