"""`kit up`: bring a model up, wait until it answers, and hold its memory against the budget."""

import hashlib
import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from kit.errors import KitError, ServiceError
from kit.memory import nvml, proc
from kit.memory.hold import Budget, Measured, Verdict, default_ram_budget, hold
from kit.memory.limits import serving_limits
from kit.memory.nvml import Gpu
from kit.memory.plan import Device, Plan, Pool, plan_serving
from kit.memory.shape import read_shape
from kit.memory.torch_build import TorchBuild, installed_build
from kit.memory.unavailable import Unavailable
from kit.settings import Settings
from kit.stack.listener import Listener
from kit.stack.lock import exclusive
from kit.stack.model import Model, resolve
from kit.stack.port import require_free
from kit.stack.preflight import require_room, rooms
from kit.stack.ready import require_alive, wait_ready
from kit.stack.runtime import (
    HostFacts,
    Running,
    Runtime,
    RuntimeName,
    ServeSpec,
    choose_runtime,
    docker_engine_found,
)
from kit.stack.service import Ready, Service, base_url
from kit.units import format_gib

_ANSWER_SECONDS = 300.0
_ANSWER_TOKENS = {True: 64, False: 32}  # of the demo; of a model that may be slow here


@dataclass(frozen=True)
class UpOptions:
    """What the user asks `kit up` for; None is decided from the model and the machine.

    Attributes:
        settings: folders, address and budgets, the command line's flags applied.
        model: ``demo``, a converted model directory, or None.
        preflight: refuse to start what does not fit into free memory.
    """

    settings: Settings
    model: str | None = None
    name: str | None = None
    context: int | None = None
    max_sequences: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    runtime: Literal["auto", "local", "container"] = "auto"
    timeout_seconds: float = 600.0
    preflight: bool = True


@dataclass(frozen=True)
class UpReport:
    """What `kit up` did and measured.

    Attributes:
        started: whether this call started it (else it already ran).
        seconds: from the call to the first answer.
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
    answer: str
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


@dataclass(frozen=True)
class _Intent:
    """Everything that is decided before something is started."""

    options: UpOptions
    runtime: RuntimeName
    model: Model
    spec: ServeSpec
    plan: Plan
    build: TorchBuild
    gpu: Gpu | None

    @property
    def budget(self) -> Budget:
        settings = self.options.settings
        vram = settings.max_vram_bytes if self.spec.device == "cuda" else None
        return Budget(
            settings.max_ram_bytes or default_ram_budget(self.plan.peak_bytes(Pool.HOST)), vram
        )

    def service(self) -> Service:
        return Service(base_url(self.spec.host, self.spec.port), self.options.settings.api_key)


def up(
    options: UpOptions,
    runtimes: Mapping[RuntimeName, Runtime],
    listener: Listener,
    *,
    environ: Mapping[str, str] = os.environ,
) -> UpReport:
    """Start the service unless it already runs as asked; ask it one question; measure it.

    Raises:
        EnvironmentNotReady: no model, no free memory, or no free port.
        IntegrityError: the demo's or the model's files are damaged.
        ServiceError: the service died, hangs, gave no answer, or was not ready in time.
    """
    begin = time.monotonic()
    with exclusive(options.settings.state_dir, options.timeout_seconds, listener):
        intent = _decide(options, set(runtimes), listener, environ)
        runtime = runtimes[intent.runtime]
        kept = _keep(intent, runtime, listener)
        try:
            if kept is None:
                _start(intent, runtime, listener)
            ready, answer = kept or _first_answer(intent, runtime, listener)
            report = _measure(intent, runtime, listener, ready, answer, begin, kept is None)
        except (KitError, KeyboardInterrupt):
            if runtime.stop():
                listener.say("stopped the service")
            raise
        if not report.within_budget:
            runtime.stop()
        return report


def _decide(
    options: UpOptions,
    available: Collection[RuntimeName],
    listener: Listener,
    environ: Mapping[str, str],
) -> _Intent:
    found = nvml.gpus()
    visible = () if isinstance(found, Unavailable) else nvml.visible(found, environ)
    facts = HostFacts(bool(visible), docker_engine_found(environ))
    choice = choose_runtime(options.runtime, facts, available)
    if choice.note:
        listener.say(choice.note)
    model = resolve(options.model, options.settings.data_dir, bool(visible), listener)
    device: Device = "cuda" if visible else "cpu"
    if options.device != "auto":
        device = options.device
    gpu = visible[0] if visible and device == "cuda" else None
    shape = read_shape(model.directory)
    context, sequences = serving_limits(shape, options.context, options.max_sequences)
    settings, key = options.settings, options.settings.api_key
    spec = ServeSpec(
        model_dir=model.directory,
        name=options.name or model.name,
        host=settings.host,
        port=settings.port,
        context=context,
        max_sequences=sequences,
        device=device,
        api_key_digest=hashlib.sha256(key.encode()).hexdigest()[:16] if key else None,
    )
    build = installed_build()
    plan = plan_serving(shape, context=context, max_sequences=sequences, device=device, build=build)
    return _Intent(options, choice.runtime, model, spec, plan, build, gpu)


def _keep(intent: _Intent, runtime: Runtime, listener: Listener) -> tuple[Ready, str] | None:
    """Readiness and answer of a service that runs as asked; else None, and nothing runs."""
    running = runtime.status()
    if running is None:
        return None
    reason = _reason_to_restart(running, intent)
    if reason is None:
        listener.say(f"already running (process {running.pid})")
        try:
            return _first_answer(intent, runtime, listener)
        except KitError as error:
            reason = error.message
    listener.say(f"{reason}; starting it again")
    runtime.stop()
    return None


def _reason_to_restart(running: Running, intent: _Intent) -> str | None:
    if not running.alive:
        return f"the service had died (process {running.pid} is gone)"
    if running.spec != intent.spec:
        old, new = vars(running.spec), vars(intent.spec)
        changed = ", ".join(name.replace("_", " ") for name in new if new[name] != old[name])
        return f"the running service has other settings ({changed})"
    return None


def _start(intent: _Intent, runtime: Runtime, listener: Listener) -> None:
    plan, spec = intent.plan, intent.spec
    need = f"{format_gib(plan.peak_bytes(Pool.HOST))} host RAM"
    if spec.device == "cuda":
        need += f", {format_gib(plan.peak_bytes(Pool.DEVICE))} VRAM"
    listener.say(f"plan: {need} (context {spec.context}, {spec.max_sequences} at once)")
    if intent.options.preflight:
        for warning in require_room(rooms(plan, intent.build, intent.gpu)):
            listener.say(f"warning: {warning}")
    require_free(spec.host, spec.port)
    runtime.start(spec)


def _first_answer(intent: _Intent, runtime: Runtime, listener: Listener) -> tuple[Ready, str]:
    service = intent.service()
    ready = wait_ready(runtime, service, intent.options.timeout_seconds, listener)
    require_alive(runtime, listener)
    if ready.model != intent.spec.name:
        raise ServiceError(
            f"port {intent.spec.port} answers as {ready.model!r}, not {intent.spec.name!r}",
            hint="another server holds the port: choose one with --port",
        )
    listener.progress("first answer", None)
    answer = service.ask(
        ready.model,
        intent.model.question,
        max_tokens=min(_ANSWER_TOKENS[intent.model.demo], max(1, ready.context_length // 4)),
        timeout_seconds=_ANSWER_SECONDS,
    )
    return ready, answer


def _measure(
    intent: _Intent,
    runtime: Runtime,
    listener: Listener,
    ready: Ready,
    answer: str,
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


def _device_peak(intent: _Intent, pid: int) -> int | Unavailable:
    """The larger of NVML's figure for the process and what the server says its peak was."""
    if intent.spec.device == "cpu":
        return Unavailable("the model runs on the CPU")
    held = nvml.processes_bytes({pid, *proc.descendants(pid)})
    health = intent.service().health()
    told = health.device_peak_bytes if isinstance(health, Ready) else None
    figures = [size for size in (held, told) if isinstance(size, int)]
    return max(figures) if figures else held
