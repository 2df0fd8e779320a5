"""What `kit status` tells of a service besides whether it is ready: image, age, health, memory."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from kit.containers.runtime import ContainerRuntime
from kit.memory import cgroup, proc
from kit.memory.unavailable import Unavailable
from kit.runtime.protocol import Running, Runtime

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
