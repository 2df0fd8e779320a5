"""The seam between `kit up` and what runs the service: a local process, or a container."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from kit.errors import EnvironmentNotReady
from kit.memory.unavailable import Unavailable

RuntimeName = Literal["local", "container"]


@dataclass(frozen=True)
class ServeSpec:
    """What is to be served, and how. Two equal specs are the same service.

    Attributes:
        api_key_digest: identifies the API key that clients must send, never the key itself.
    """

    model_dir: Path
    name: str
    host: str
    port: int
    context: int
    max_sequences: int
    device: Literal["cpu", "cuda"]
    api_key_digest: str | None = None


@dataclass(frozen=True)
class Running:
    """A service that a runtime started and that should be running.

    Attributes:
        alive: its process exists.
        pid: the process, as the host sees it.
        started_at: seconds since the epoch.
        exit_code: with which it ended, where that can be known (128 + n: killed by signal n).
    """

    spec: ServeSpec
    alive: bool
    pid: int
    started_at: float
    exit_code: int | Unavailable


class Runtime(Protocol):
    """Starts, stops and shows one service. `kit up` holds a lock while it uses it."""

    name: RuntimeName

    def require_installed(self) -> None:
        """Return when everything that the server is run from is there.

        Raises:
            EnvironmentNotReady: something has to be installed first.
        """
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


@dataclass(frozen=True)
class HostFacts:
    """What the choice of a runtime follows from: a GPU that CUDA may use, and a Docker engine."""

    gpu: bool
    docker: bool


def docker_engine_found(environ: Mapping[str, str]) -> bool:
    """Whether an engine is there to be asked: ``DOCKER_HOST`` names one, or its socket exists."""
    return bool(environ.get("DOCKER_HOST")) or Path("/var/run/docker.sock").exists()


@dataclass(frozen=True)
class Choice:
    """The runtime to use, and a line for the user where it is not the obvious one."""

    runtime: RuntimeName
    note: str | None = None


def choose_runtime(
    wanted: Literal["auto", "local", "container"],
    facts: HostFacts,
    available: Collection[RuntimeName],
) -> Choice:
    """Choose: ``auto`` is a container where there are an NVIDIA GPU and Docker, else local.

    ``available`` names the runtimes this version of the kit has.

    Raises:
        EnvironmentNotReady: a container was asked for and is not available.
    """
    if wanted == "local":
        return Choice("local")
    if wanted == "container":
        if "container" in available and facts.docker:
            return Choice("container")
        missing = "no Docker engine was found" if "container" in available else _NO_CONTAINERS
        raise EnvironmentNotReady(missing, hint="use --runtime local")
    if facts.gpu and facts.docker:
        if "container" in available:
            return Choice("container")
        return Choice("local", f"{_NO_CONTAINERS}; using a local process")
    return Choice("local")


_NO_CONTAINERS = "this version of the kit has no container runtime yet"
