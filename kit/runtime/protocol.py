"""The seam between `kit up` and what runs the service: a local process, or a container."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from kit.errors import EnvironmentNotReady
from kit.memory.budget import Budget
from kit.memory.unavailable import Unavailable
from kit.runtime.bounds import NO_BOUNDS, Bounds
from kit.runtime.orphan import Orphan


class Listener(Protocol):
    """Receives what happens, as it happens."""

    def say(self, text: str) -> None:
        """One line of what was done or found."""
        ...

    def progress(self, phase: str, fraction: float | None) -> None:
        """``phase`` is under way; ``fraction`` of it is done, from 0.0 to 1.0, if that is known."""
        ...


RuntimeName = Literal["local", "container"]
VERSION_LABEL = "org.opencontainers.image.version"
COMMIT_LABEL = "spark-kit.upstream.commit"
REWRITES_LABEL = "spark-kit.upstream.rewrites"
EngineName = Literal["native", "megatron"]
_BUDGET = {"max_ram_bytes": "RAM budget", "max_vram_bytes": "VRAM budget"}


@dataclass(frozen=True)
class ImageRef:
    """The image that a container is made from.

    Attributes:
        name: as it was asked for; it may come to mean another image.
        identity: ``sha256:…`` of its configuration, which is one image for ever; empty for one
            that is not here yet.
    """

    name: str
    identity: str


@dataclass(frozen=True)
class Image:
    """An image that the engine has.

    Attributes:
        identity: ``sha256:…`` of its configuration.
        digests: ``REPOSITORY@sha256:…`` as registries know it; empty for what was built here.
        platform: system and processor that it is for, such as ``linux/amd64``; empty: it does not
            say.
        command: what a container of it runs: its entry point, else its command.
    """

    identity: str
    tags: tuple[str, ...]
    digests: tuple[str, ...]
    size_bytes: int
    labels: Mapping[str, str]
    platform: str = ""
    command: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """As its registry knows it, else of its configuration."""
        return next(iter(self.digests), self.identity)


@dataclass(frozen=True)
class ServeSpec:
    """What is to be served, and how. Two equal specs are the same service.

    Attributes:
        host: address that clients connect to; a container publishes its port there.
        device: a container for ``cuda`` is another one than that for ``cpu``.
        api_key_digest: identifies the API key that clients must send, never the key itself.
        max_ram_bytes, max_vram_bytes: the budget, see :class:`kit.memory.budget.Budget`; a
            container can take no more host RAM than that.
        gpu: UUIDs of the GPUs that a container gets, separated by commas.
        image: of a container.
        user: ``uid:gid`` that a container runs as; None: the image's own.
        kit_version: of the kit that a local process runs; a container's is in its image.
    """

    model_dir: Path
    name: str
    host: str
    port: int
    context: int
    max_sequences: int
    device: Literal["cpu", "cuda"]
    api_key_digest: str | None = None
    engine: EngineName = "native"
    max_ram_bytes: int | None = None
    max_vram_bytes: int | None = None
    gpu: str | None = None
    image: ImageRef | None = None
    user: str | None = None
    kit_version: str | None = None

    @property
    def budget(self) -> Budget:
        """What the measured peaks may not pass."""
        return Budget(self.max_ram_bytes, self.max_vram_bytes)


def differences(old: ServeSpec, new: ServeSpec) -> tuple[str, ...]:
    """What changes from ``old`` to ``new``, in words; the budget only where nothing else does."""
    before, after = vars(old), vars(new)
    changed = [name for name in after if after[name] != before[name]]
    wished = [name.replace("_", " ") for name in changed if name not in _BUDGET]
    return tuple(wished or [_BUDGET[name] for name in changed])


@dataclass(frozen=True)
class Running:
    """A service that a runtime started and that should be running.

    Attributes:
        alive: it runs.
        where: what it runs in, for messages: ``process 4711``, ``container spark-kit-spark-1``.
        pid: its first process, as this machine sees it.
        started_at: seconds since the epoch.
        exit_code: with which it ended, where that can be known (128 + n: killed by signal n).
        out_of_memory: the kernel killed it at its container's memory limit.
        restarts: how often the engine has started it again because it had ended.
        bounds: what the kernel holds a local process to.
        fate: of one that does not run, after "it".
    """

    spec: ServeSpec
    alive: bool
    where: str
    pid: int | Unavailable
    started_at: float
    exit_code: int | Unavailable
    out_of_memory: bool = False
    restarts: int = 0
    bounds: Bounds = NO_BOUNDS
    fate: str = "is gone"

    @property
    def uptime_seconds(self) -> float:
        """Since it was started."""
        return max(0.0, time.time() - self.started_at)


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


@dataclass(frozen=True)
class Launch:
    """A command that starts something, and what is added to its environment."""

    command: tuple[str, ...]
    variables: Mapping[str, str]


class Images(Protocol):
    """The images that a runtime makes services from."""

    def find(self, name: str) -> Image | None:
        """The image of that name or identity; None: it is not here."""
        ...

    def require(self, name: str) -> Image:
        """The image of that name.

        Raises:
            EnvironmentNotReady: it is not here.
        """
        ...

    def require_runnable(self, spec: ServeSpec) -> None:
        """Return when a service can be made from the image of ``spec``, as far as it tells.

        Raises:
            EnvironmentNotReady: it is for another processor, or runs no server.
        """
        ...

    def pulling(self, spec: ServeSpec, name: str) -> Launch:
        """The command that :meth:`pull` runs."""
        ...

    def pull(self, spec: ServeSpec, name: str, on_line: Callable[[str], None]) -> Image:
        """Bring the image of that name from its registry.

        Args:
            on_line: called with every line that this prints.

        Raises:
            EnvironmentNotReady: it cannot be had.
        """
        ...

    def keep(self, spec: ServeSpec) -> None:
        """See that the image of ``spec``, which has passed its checks, can be gone back to."""
        ...


class Runtime(Protocol):
    """Starts, stops and shows one service. `kit up` holds a lock while it uses it."""

    name: RuntimeName
    log_file: Path

    @property
    def images(self) -> Images | None:
        """Where its services come from; None: it runs what is installed here."""
        ...

    def require_installed(self, engine: EngineName = "native") -> None:
        """Return when everything that the server is run from is there.

        Raises:
            EnvironmentNotReady: something has to be installed first.
        """
        ...

    def require_vacancy(self) -> None:
        """Return when no other kit has a service where this one's would be.

        Raises:
            EnvironmentNotReady: one has.
        """
        ...

    def launch(self, spec: ServeSpec) -> Launch:
        """The command that :meth:`start` runs."""
        ...

    def start(self, spec: ServeSpec) -> Running:
        """Start the service and return at once; nothing may be running."""
        ...

    def status(self) -> Running | None:
        """The service that was started and not stopped since, alive or dead; None: none."""
        ...

    def stop(self) -> bool:
        """End the service, at first politely; False when nothing was alive."""
        ...

    def logs(self, lines: int, *, follow: bool = False, this_run: bool = False) -> Iterator[str]:
        """The last log lines; with ``follow`` new ones too, until the service ends."""
        ...

    def processes(self) -> tuple[int, ...] | Unavailable:
        """Process ids of the running service, as this machine sees them."""
        ...

    def details(self, running: Running) -> Details | None:
        """What is known of a service that is alive; None: it has just ended."""
        ...

    def configuration(self) -> str | None:
        """The started service as its engine has it, for people; None: there is no such text."""
        ...

    def orphan(self, port: int) -> Orphan | None:
        """A server of the kit that nobody remembers, as far as it can be seen."""
        ...


@dataclass(frozen=True)
class Service:
    """A service that was started, and the runtime that has it."""

    runtime: Runtime
    running: Running


@dataclass(frozen=True)
class HostFacts:
    """What the choice of a runtime follows from: a GPU that CUDA may use, and a Docker engine."""

    gpu: bool
    docker: bool


def docker_engine_found(environ: Mapping[str, str]) -> bool:
    """Whether an engine is there to be asked: ``DOCKER_HOST`` names one, or its socket exists."""
    sockets = [Path("/var/run/docker.sock")]
    if folder := environ.get("XDG_RUNTIME_DIR"):
        sockets.append(Path(folder) / "docker.sock")
    return bool(environ.get("DOCKER_HOST")) or any(socket.exists() for socket in sockets)


def choose_runtime(
    wanted: Literal["auto", "local", "container"],
    facts: HostFacts,
    available: Collection[RuntimeName],
) -> RuntimeName:
    """Choose: ``auto`` is a container where there are an NVIDIA GPU and Docker, else local.

    Raises:
        EnvironmentNotReady: a container was asked for and there is no Docker engine.
    """
    if wanted == "container" and not facts.docker:
        raise EnvironmentNotReady(
            "no Docker engine was found",
            hint="install Docker Engine and start it, or use --runtime local",
        )
    if wanted == "auto":
        both = facts.gpu and facts.docker and "container" in available
        return "container" if both else "local"
    return wanted


def find_orphan(runtimes: Mapping[RuntimeName, Runtime], port: int) -> Orphan | None:
    """A server of the kit that nobody remembers, in any of the runtimes."""
    found = (runtime.orphan(port) for runtime in runtimes.values())
    return next((orphan for orphan in found if orphan is not None), None)


def current(runtimes: Mapping[RuntimeName, Runtime]) -> Service | None:
    """The service that was started, alive or dead; None: nothing was."""
    for runtime in runtimes.values():
        if (running := runtime.status()) is not None:
            return Service(runtime, running)
    return None
