"""`kit status` and `kit health`: what should run, whether it does, and what is known of it."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from kit.containers.runtime import ContainerRuntime
from kit.errors import KitError, ServiceError
from kit.memory import cgroup, proc
from kit.memory.timeline import Run
from kit.memory.unavailable import Unavailable
from kit.proof.receipt import now, run_of
from kit.runtime.client import Client, Failed, Health, Loading, Ready, Silent, base_url
from kit.runtime.protocol import Listener, Running, Runtime, RuntimeName, current
from kit.runtime.ready import cause_of_death
from kit.service.recall import Proven, recall_plan

VERSION_LABEL = "org.opencontainers.image.version"
COMMIT_LABEL = "spark-kit.upstream.commit"
REWRITES_LABEL = "spark-kit.upstream.rewrites"


@dataclass(frozen=True)
class MemoryUse:
    """Host RAM, in bytes.

    Attributes:
        used_bytes: now, of what nobody else could take.
        peak_bytes: of a container with the files it has read, of a process with those it maps.
        limit_bytes: None: there is none.
    """

    used_bytes: int | Unavailable
    peak_bytes: int | Unavailable
    limit_bytes: int | None


@dataclass(frozen=True)
class Details:
    """One running service.

    Attributes:
        image: name as it was asked for; this and the fields below it are None for a process.
        digest: of the image, as its registry knows it; else of its configuration.
        kit_version, upstream_commit, rewrites: as the image's labels say.
        health: as the engine's own check finds it.
        restarts: by the engine, because it had ended.
    """

    where: str
    uptime_seconds: float
    memory: MemoryUse
    image: str | None = None
    digest: str | None = None
    kit_version: str | None = None
    upstream_commit: str | None = None
    rewrites: str | None = None
    health: str | None = None
    restarts: int = 0


def details(runtime: Runtime, running: Running) -> Details | None:
    """Of the service of ``runtime``; None where it does not run."""
    if not running.alive:
        return None
    if isinstance(runtime, ContainerRuntime):
        return _of_container(runtime, running)
    return Details(running.where, _age(running), _process_memory(runtime.processes()))


def _of_container(runtime: ContainerRuntime, running: Running) -> Details | None:
    container = runtime.container()
    if container is None:
        return None
    used, peak = runtime.engine.memory_usage(container.identity)
    if isinstance(peak, Unavailable) and isinstance(running.pid, int):
        group = cgroup.group_of(running.pid)  # version 2: the engine does not ask for it
        peak = peak if isinstance(group, Unavailable) else cgroup.usage(group).peak_bytes
    image = runtime.engine.image(container.image)
    labels: Mapping[str, str] = image.labels if image else {}
    named = running.spec.image
    return Details(
        where=running.where,
        uptime_seconds=_age(running),
        memory=MemoryUse(used, peak, container.memory_limit_bytes),
        image=named.name if named else container.image,
        digest=next(iter(image.digests), image.identity) if image else container.image,
        kit_version=labels.get(VERSION_LABEL),
        upstream_commit=labels.get(COMMIT_LABEL),
        rewrites=labels.get(REWRITES_LABEL),
        health=container.health,
        restarts=container.restarts,
    )


def _process_memory(pids: tuple[int, ...] | Unavailable) -> MemoryUse:
    if isinstance(pids, Unavailable):
        return MemoryUse(pids, pids, None)
    found = [proc.process_memory(pid) for pid in pids]
    known = [memory for memory in found if not isinstance(memory, Unavailable)]
    used = sum(memory.anonymous_bytes + memory.shared_bytes for memory in known)
    return MemoryUse(used, proc.tree_peak_bytes(pids[0]), None)


def _age(running: Running) -> float:
    return max(0.0, time.time() - running.started_at)


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
