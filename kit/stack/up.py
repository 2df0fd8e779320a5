"""`kit up`: bring a model up, wait until it answers, and hold its memory against the budget."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

from kit.errors import KitError, ServiceError
from kit.memory import nvml, proc
from kit.memory.hold import Measured, Verdict, hold
from kit.memory.plan import Plan, Pool
from kit.memory.unavailable import Unavailable
from kit.stack.intent import Intent, UpOptions, decide
from kit.stack.listener import Listener
from kit.stack.lock import exclusive
from kit.stack.model import Model
from kit.stack.port import require_free
from kit.stack.preflight import NOTHING, held_by, require_room, rooms
from kit.stack.ready import require_alive, wait_ready
from kit.stack.runtime import Running, Runtime, RuntimeName, ServeSpec
from kit.stack.service import Ready, base_url
from kit.units import format_gib

_ANSWER_SECONDS = 300.0
_ANSWER_TOKENS = {True: 64, False: 32}  # of the demo; of a model that may be slow here


@dataclass(frozen=True)
class UpReport:
    """What `kit up` did and measured.

    Attributes:
        started: whether this call started it (else it already ran).
        seconds: from the call to the first answer.
        answer: None where a service that already ran was too busy to be asked.
        verdicts: the measured peaks held against their budgets; when one failed, the service has
            been stopped.
    """

    model: Model
    spec: ServeSpec
    plan: Plan
    ready: Ready
    pid: int
    started: bool
    seconds: float
    question: str
    answer: str | None
    measured: Measured
    verdicts: tuple[Verdict, ...]

    @property
    def url(self) -> str:
        """Base URL for OpenAI clients."""
        return base_url(self.spec.host, self.spec.port) + "/v1"

    @property
    def within_budget(self) -> bool:
        """Whether the service may go on running."""
        return all(verdict.passed for verdict in self.verdicts)


def up(
    options: UpOptions,
    runtimes: Mapping[RuntimeName, Runtime],
    listener: Listener,
    *,
    environ: Mapping[str, str] = os.environ,
) -> UpReport:
    """Start the service unless it already runs as asked; ask it one question; measure it.

    Raises:
        EnvironmentNotReady: no model, no free memory, no free port, or something is not installed.
            A service that ran before goes on.
        IntegrityError: the demo's or the model's files are damaged.
        ServiceError: the service died, hangs, gave no answer, or was not ready in time.
    """
    begin = time.monotonic()
    with exclusive(options.settings.state_dir, options.timeout_seconds, listener):
        intent = decide(options, runtimes, listener, environ)
        runtime = runtimes[intent.runtime]
        kept = _keep(intent, runtime, listener)
        if kept is None:
            _preflight(intent, runtime.status(), listener)
        try:
            if kept is None:
                runtime.stop()
                require_free(intent.spec.host, intent.spec.port)
                runtime.start(intent.spec)
            ready, answer = kept or _first_answer(intent, runtime, listener)
            report = _measure(intent, runtime, listener, ready, answer, begin, kept is None)
        except (KitError, KeyboardInterrupt):
            if runtime.stop():
                listener.say("stopped the service")
            raise
        if not report.within_budget:
            runtime.stop()
            listener.say("stopped the service: it is over its budget")
        return report


def _keep(intent: Intent, runtime: Runtime, listener: Listener) -> tuple[Ready, str | None] | None:
    """Readiness and answer of a service that runs as asked; None: it has to be started (again).

    One that has no room for a question now is kept without an answer: it is at work.
    """
    running = runtime.status()
    if running is None:
        return None
    reason = _reason_to_restart(running, intent)
    if reason is None:
        listener.say(f"already running (process {running.pid})")
        try:
            ready = _ready(intent, runtime, listener)
            return ready, _ask_if_free(intent, ready, listener)
        except KitError as error:
            reason = error.message
    listener.say(f"{reason}; starting it again")
    return None


def _reason_to_restart(running: Running, intent: Intent) -> str | None:
    if not running.alive:
        return f"the service had died (process {running.pid} is gone)"
    if running.spec != intent.spec:
        old, new = vars(running.spec), vars(intent.spec)
        changed = ", ".join(name.replace("_", " ") for name in new if new[name] != old[name])
        return f"the running service has other settings ({changed})"
    return None


def _preflight(intent: Intent, old: Running | None, listener: Listener) -> None:
    """Refuse what cannot start, while ``old``, which it is to replace, is still there."""
    try:
        _require_start(intent, old, listener)
    except KitError:
        if old is not None and old.alive:
            listener.say(f"the service that was running goes on (process {old.pid})")
        raise


def _require_start(intent: Intent, old: Running | None, listener: Listener) -> None:
    plan, spec = intent.plan, intent.spec
    need = f"{format_gib(plan.peak_bytes(Pool.HOST))} host RAM"
    if spec.device == "cuda":
        need += f", {format_gib(plan.peak_bytes(Pool.DEVICE))} VRAM"
    listener.say(f"plan: {need} (context {spec.context}, {spec.max_sequences} at once)")
    leaving = old if old is not None and old.alive else None
    if intent.options.preflight:
        freed = held_by(leaving.pid) if leaving else NOTHING
        for warning in require_room(rooms(plan, intent.build, intent.gpu, freed)):
            listener.say(f"warning: {warning}")
    own_port = leaving is not None and leaving.spec.port == spec.port
    require_free(spec.host, 0 if own_port else spec.port)  # 0: is it an address of this machine?


def _first_answer(intent: Intent, runtime: Runtime, listener: Listener) -> tuple[Ready, str]:
    ready = _ready(intent, runtime, listener)
    return ready, _ask(intent, ready, listener)


def _ready(intent: Intent, runtime: Runtime, listener: Listener) -> Ready:
    ready = wait_ready(runtime, intent.service(), intent.options.timeout_seconds, listener)
    require_alive(runtime, listener)
    if ready.model != intent.spec.name:
        raise ServiceError(
            f"port {intent.spec.port} answers as {ready.model!r}, not {intent.spec.name!r}",
            hint="another server holds the port: choose one with --port",
        )
    return ready


def _ask_if_free(intent: Intent, ready: Ready, listener: Listener) -> str | None:
    service = intent.service()
    if service.is_busy(ready.max_sequences):
        return None
    try:
        return _ask(intent, ready, listener)
    except KitError:
        if service.is_busy(ready.max_sequences):  # others came first
            return None
        raise


def _ask(intent: Intent, ready: Ready, listener: Listener) -> str:
    listener.progress("first answer", None)
    return intent.service().ask(
        ready.model,
        intent.model.question,
        max_tokens=min(_ANSWER_TOKENS[intent.model.demo], max(1, ready.context_length // 4)),
        timeout_seconds=_ANSWER_SECONDS,
    )


def _measure(
    intent: Intent,
    runtime: Runtime,
    listener: Listener,
    ready: Ready,
    answer: str | None,
    begin: float,
    started: bool,
) -> UpReport:
    running = require_alive(runtime, listener)
    host = proc.tree_peak_bytes(running.pid)
    measured = Measured(host, _device_peak(intent, running.pid))
    return UpReport(
        model=intent.model,
        spec=intent.spec,
        plan=intent.plan,
        ready=ready,
        pid=running.pid,
        started=started,
        seconds=time.monotonic() - begin,
        question=intent.model.question,
        answer=answer,
        measured=measured,
        verdicts=hold(intent.budget, measured),
    )


def _device_peak(intent: Intent, pid: int) -> int | Unavailable:
    """The larger of NVML's figure for the process and what the server says its peak was."""
    if intent.spec.device == "cpu":
        return Unavailable("the model runs on the CPU")
    held = nvml.processes_bytes({pid, *proc.descendants(pid)})
    health = intent.service().health()
    told = health.device_peak_bytes if isinstance(health, Ready) else None
    figures = [size for size in (held, told) if isinstance(size, int)]
    return max(figures) if figures else held
