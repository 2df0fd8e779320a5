"""The seam between `kit up` and what runs the service: a local process, or a container."""

from collections.abc import Collection, Iterator, Mapping
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


@dataclass(frozen=True)
class Launch:
    """A command that starts something, and what is added to its environment."""

    command: tuple[str, ...]
    variables: Mapping[str, str]


class Runtime(Protocol):
    """Starts, stops and shows one service. `kit up` holds a lock while it uses it."""

    name: RuntimeName
    log_file: Path

    def require_installed(self, engine: EngineName = "native") -> None:
        """Return when everything that the server is run from is there.

        Raises:
            EnvironmentNotReady: something has to be installed first.
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

    def orphan(self, port: int) -> Orphan | None:
        """A server of the kit that nobody remembers, as far as it can be seen."""
        ...


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


def current(runtimes: Mapping[RuntimeName, Runtime]) -> tuple[Runtime, Running] | None:
    """The runtime that has a service, and the service; None: nothing was started."""
    for runtime in runtimes.values():
        if (running := runtime.status()) is not None:
            return runtime, running
    return None
