"""`kit up`: decide, start what does not run yet, wait, ask it, measure it; one at a time."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock

from kit.containers.wanted_image import build_image
from kit.errors import KitError, ServiceError
from kit.files import unwritable, writing
from kit.memory.budget import assess
from kit.proof.assertion import Assessed
from kit.proof.measure import DeviceUse, look_again
from kit.runtime import postmortem
from kit.runtime.client import Failed, Ready
from kit.runtime.port import require_free
from kit.runtime.postmortem import Lived, refused_request
from kit.runtime.protocol import (
    Images,
    Listener,
    Running,
    Runtime,
    RuntimeName,
    Service,
    current,
    differences,
)
from kit.runtime.ready import LivedSoFar, require_alive, require_no_death, wait_ready
from kit.service.intent import Intent, UpOptions, decide
from kit.service.measured_run import UpReport, measured_run
from kit.service.preflight import require_start
from kit.service.recall import Proven, remember


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
    with exclusive(options.settings.state_dir, options.timeout_seconds, listener):
        intent = decide(options, runtimes, listener, environ)
        return bring_up(intent, runtimes, listener)


# On a few CPU cores the first answer of a 13B takes minutes.
_ANSWER_SECONDS = 300.0
_ANSWER_TOKENS = {True: 64, False: 32}  # of the demo; of a model that may be slow here
BUILD_LOG = "image-build.log"


@dataclass(frozen=True)
class Up:
    """A service that is ready.

    Attributes:
        answer: to the first question; None: it was too busy to be asked.
        held: its peaks, where it was started here.
    """

    running: Running
    ready: Ready
    answer: str | None
    held: Assessed | None = None


def bring_up(
    intent: Intent,
    runtimes: Mapping[RuntimeName, Runtime],
    listener: Listener,
    *,
    anew: bool = False,
) -> UpReport:
    """Let the service of ``intent`` run, pass its checks, and be remembered; whoever calls it holds
    the lock of the state folder.

    Args:
        anew: start it also where it already runs as decided.

    Raises:
        EnvironmentNotReady: no free memory, no free port, no image. A service that ran before
            goes on.
        BudgetExceeded: its container was killed at its memory limit.
        ServiceError: the service died, hangs, gave no answer, or was not ready in time.
    """
    begin = time.monotonic()
    old = current(runtimes)
    runtime = runtimes[intent.runtime]
    kept = None if anew else _keep(intent, old, runtime, listener)
    if kept is None:
        intent = _prepare(intent, old, runtime, listener)
    try:
        up = kept or _start(intent, old, runtime, listener)
        running = require_alive(runtime, up.running, listener)
        held = up.held or _held(intent, runtime)
        seconds = time.monotonic() - begin
        report = report_of(intent, up, running, held, seconds, is_new=kept is None)
    except (KitError, KeyboardInterrupt):
        if runtime.stop():
            listener.say("stopped the service")
        raise
    if report.within_budget:
        _remember(intent, runtime, listener)
    else:
        runtime.stop()
        listener.say(f"stopped the service: {report.failure}")
    return report


def _remember(intent: Intent, runtime: Runtime, listener: Listener) -> None:
    remember(intent.settings.state_dir, Proven(intent.runtime, intent.spec))
    if runtime.images is not None:
        try:
            runtime.images.keep(intent.spec)
        except KitError as error:  # it runs; what is lost is a way back
            listener.say(f"warning: a rollback may not find its image: {error.message}")


def _keep(
    intent: Intent,
    old: Service | None,
    runtime: Runtime,
    listener: Listener,
) -> Up | None:
    """A service that runs as decided; None: it has to be started.

    One that has no room for a question now is kept without an answer: it is at work.
    """
    if old is None:
        return None
    running = old.running
    reason = reason_to_restart(old, intent)
    if reason is None:
        listener.say(f"already running ({running.where})")
        try:
            ready = _ready(intent, running, runtime, listener)
            return Up(running, ready, _ask_if_free(intent, ready, listener))
        except KitError as error:
            reason = error.message
    listener.say(f"{reason}; starting it again")
    return None


def reason_to_restart(service: Service, intent: Intent) -> str | None:
    """Why a service is not what was decided; None: it is."""
    running = service.running
    if not running.alive:
        return f"the service had died ({running.where} {running.fate})"
    changed = differences(running.spec, intent.spec)
    if service.runtime.name != intent.runtime:
        changed = ("runtime", *changed)
    if changed:
        return f"the running service has other settings ({', '.join(changed)})"
    return None


def _prepare(intent: Intent, old: Service | None, runtime: Runtime, listener: Listener) -> Intent:
    """Refuse what cannot start, and get the image, while ``old``, to be replaced, still runs."""
    try:
        require_start(intent, old.running if old else None, listener)
        runtime.require_vacancy()
        intent = _with_image(intent, runtime.images, listener)
        if runtime.images is not None:
            runtime.images.require_runnable(intent.spec)
        return intent
    except KitError:
        if old is not None and old.running.alive:
            listener.say(f"the service that was running goes on ({old.running.where})")
        raise


def _with_image(intent: Intent, images: Images | None, listener: Listener) -> Intent:
    wanted = intent.image
    if wanted is None or intent.spec.image is not None or images is None:
        return intent
    if wanted.named:
        return pull_image(intent, images, listener)
    listener.say(f"image {wanted.name} is not here: building it, which takes minutes")
    log = intent.settings.state_dir / BUILD_LOG
    build_image(wanted, log, lambda line: listener.progress(line, None))
    return intent.with_image(images.require(wanted.name))


def pull_image(intent: Intent, images: Images | None, listener: Listener) -> Intent:
    """Bring the image from its registry, also where one of its name is here."""
    wanted = intent.image
    if wanted is None or images is None:
        return intent
    listener.say(f"pulling image {wanted.name}")
    pulled = images.pull(intent.spec, wanted.name, lambda line: listener.progress(line, None))
    return intent.with_image(pulled)


def _start(intent: Intent, old: Service | None, runtime: Runtime, listener: Listener) -> Up:
    if old is not None:
        listener.progress(f"stopping {old.running.where}", None)
        old.runtime.stop()
    require_free(intent.spec.host, intent.spec.port)
    listener.progress("starting the server", None)
    uuids = [gpu.uuid for gpu in intent.gpus]
    device_use = DeviceUse.before_start(uuids) if uuids else None
    running = runtime.start(intent.spec)
    with measured_run(intent, runtime, running, device_use) as run:
        lived = run.recorder.lived
        ready = _ready(intent, running, runtime, listener, lived)
        try:
            answer = _ask(intent, ready, listener)
        except ServiceError as error:
            require_no_death(runtime, running, intent.client, listener, lived)
            raise refused_request(error.message, running, lived()) or error from None
        return Up(running, ready, answer, run.prove(ready, listener))


def _ready(
    intent: Intent,
    running: Running,
    runtime: Runtime,
    listener: Listener,
    lived: LivedSoFar = Lived,
) -> Ready:
    ready = wait_ready(runtime, running, intent.client, intent.timeout_seconds, listener, lived)
    require_alive(runtime, running, listener, lived)
    if ready.model != intent.spec.name:
        raise ServiceError(
            f"port {intent.spec.port} answers as {ready.model!r}, not {intent.spec.name!r}",
            hint="another server holds the port: choose one with --port",
        )
    return ready


def _ask_if_free(intent: Intent, ready: Ready, listener: Listener) -> str | None:
    client = intent.client
    if client.is_busy(ready.max_sequences):
        return None
    try:
        return _ask(intent, ready, listener)
    except KitError:
        if client.is_busy(ready.max_sequences):  # others came first
            return None
        raise


def _ask(intent: Intent, ready: Ready, listener: Listener) -> str:
    listener.progress("asking a first question", None)
    try:
        return intent.client.ask(
            ready.model,
            intent.model.question,
            max_tokens=min(_ANSWER_TOKENS[intent.model.demo], max(1, ready.context_length // 4)),
            timeout_seconds=_ANSWER_SECONDS,
        )
    except ServiceError:
        health = intent.client.health()
        if isinstance(health, Failed):  # since it was ready; it knows better why
            raise postmortem.refusal(health) from None
        raise


def report_of(
    intent: Intent, up: Up, running: Running, held: Assessed, seconds: float, *, is_new: bool
) -> UpReport:
    """The report of a service that is up.

    Args:
        running: the service as it is now.
        seconds: that it took.
        is_new: it was started for this.
    """
    return UpReport(
        model=intent.model,
        spec=intent.spec,
        plan=intent.plan,
        ready=up.ready,
        where=running.where,
        pid=running.pid,
        started=is_new,
        seconds=seconds,
        question=intent.model.question,
        answer=up.answer,
        measured=held.measured,
        verdicts=held.verdicts,
        work=held.work,
        skipped=held.skipped,
        receipt=held.receipt,
    )


def _held(intent: Intent, runtime: Runtime) -> Assessed:
    """The peaks so far of a service that already ran, whatever it has done."""
    measured = look_again(runtime, intent.client, intent.spec.device)
    return Assessed(measured, assess(intent.spec.budget, measured), None, "it was running already")


@contextmanager
def exclusive(state_dir: Path, timeout_seconds: float, listener: Listener) -> Iterator[None]:
    """Hold the lock of ``state_dir``, at first waiting for another `kit up` to end.

    Raises:
        EnvironmentNotReady: ``state_dir`` cannot be written.
        ServiceError: the other one took longer than ``timeout_seconds``.
    """
    lock = filelock.FileLock(state_dir / "up.lock")
    try:
        with writing(state_dir):
            state_dir.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        listener.say("another kit up is at work; waiting for it to end")
        try:
            lock.acquire(timeout=timeout_seconds)
        except filelock.Timeout as error:
            raise ServiceError(
                f"another kit up did not end within {timeout_seconds:.0f} s",
                hint="see kit status and kit logs; kit down ends what it started",
            ) from error
    except OSError as error:
        raise unwritable(state_dir, error) from error
    try:
        yield
    finally:
        lock.release()
