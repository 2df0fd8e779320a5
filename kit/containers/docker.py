"""The Docker engine, asked through its SDK. It looks; Compose is what changes containers.

All that it changes is the names of images that have passed their checks.
"""

import importlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

from kit.containers.docker_errors import explain
from kit.errors import KitError
from kit.memory.unavailable import Unavailable
from kit.runtime.protocol import Image

PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
OWNER_LABEL = "spark-kit.state-dir"
PROVEN = "spark-kit-proven"
"""Repository of names for images that have passed their checks."""
# The engine answers in milliseconds unless it hangs; pulls and builds go through the CLI.
_SECONDS = 10
_GONE = (404, 409)
"""HTTP status for a container that was removed, or is just being removed."""

Health = Literal["none", "starting", "healthy", "unhealthy"]


@dataclass(frozen=True)
class Container:
    """A container as the engine describes it.

    Attributes:
        image: its identity.
        pid: of its first process on the engine's machine; 0: it does not run.
        exit_code: of its last end; 0 while it runs.
        out_of_memory: whether the kernel killed it at its memory limit when it last ended.
        error: why it could not be started.
        started_at: seconds since the epoch.
        restarts: by the engine, as its restart policy says.
        restarting: the engine is about to do so once more.
        memory_limit_bytes: None: it has none.
        owner: of the kit that started it, see :func:`kit.runtime.orphan.owner_of`; empty: it was
            started without the kit.
    """

    identity: str
    name: str
    project: str
    service: str
    image: str
    running: bool
    pid: int
    exit_code: int
    out_of_memory: bool
    error: str
    started_at: float
    restarts: int
    health: Health
    memory_limit_bytes: int | None
    owner: str = ""
    restarting: bool = False


@dataclass(frozen=True)
class Death:
    """An end of a container that the engine remembers, also where it was started again since."""

    exit_code: int
    out_of_memory: bool


class Engine:
    """The engine that the docker command talks to: ``DOCKER_HOST``, else its current context.

    Every method raises EnvironmentNotReady where it does not answer.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ

    def version(self) -> str:
        """Such as ``28.3.2``."""
        with _explained("asking the Docker engine"):
            return str(self._client.version()["Version"])

    def info(self) -> dict[str, Any]:
        """What `docker info` shows."""
        with _explained("asking the Docker engine"):
            return dict(self._client.info())

    def image(self, name: str) -> Image | None:
        """The image of this name or identity; None: the engine has none."""
        with _explained("looking for an image"):
            try:
                found = self._client.images.get(name).attrs
            except _sdk("errors").ImageNotFound:
                return None
        return Image(
            identity=str(found["Id"]),
            tags=tuple(found.get("RepoTags") or ()),
            digests=tuple(found.get("RepoDigests") or ()),
            size_bytes=int(found["Size"]),
            labels=dict(found["Config"].get("Labels") or {}),
            platform=_platform(found.get("Os"), found.get("Architecture")),
            command=tuple(found["Config"].get("Entrypoint") or found["Config"].get("Cmd") or ()),
        )

    def platform(self) -> str:
        """What it runs images for, such as ``linux/amd64``."""
        with _explained("asking the Docker engine"):
            found = self._client.version()
            return _platform(found.get("Os"), found.get("Arch"))

    def keep(self, identity: str) -> None:
        """Give the image a name of the kit's own, :func:`kept_name`.

        Without one it is lost to a build of its name: from BuildKit at once, where containerd
        stores the images, else by the next `docker image prune`.
        """
        repository, _, tag = kept_name(identity).partition(":")
        with _explained("naming the image"):
            self._client.api.tag(identity, repository, tag)

    def containers(self, project: str) -> tuple[Container, ...]:
        """Every container of a Compose project, running or not."""
        with _explained("looking for containers"):
            label = f"{PROJECT_LABEL}={project}"
            found = self._client.containers.list(
                all=True, filters={"label": label}, ignore_removed=True
            )
            return tuple(container_of(each.attrs) for each in found)

    def attached(self, network: str) -> frozenset[str]:
        """Identities of the containers that run in a network; none where there is no such one."""
        with _explained("looking at a network"):
            try:
                found = self._client.networks.get(network).attrs
            except _sdk("errors").NotFound:
                return frozenset()
        return frozenset(found.get("Containers") or ())

    def logs(self, container: str, lines: int, *, follow: bool = False) -> Iterator[str]:
        """The last ``lines`` lines; with ``follow`` new ones until it ends; none if it is gone."""
        with _explained("reading the container's log"):
            try:
                chunks = self._client.api.logs(container, stream=True, follow=follow, tail=lines)
            except _sdk("errors").APIError as error:
                if error.status_code in _GONE:
                    return
                raise
            rest = b""
            for chunk in chunks:
                *whole, rest = (rest + chunk).split(b"\n")
                yield from (line.decode("utf-8", "replace").rstrip("\r") for line in whole)
            if rest:
                yield rest.decode("utf-8", "replace")

    def deaths(self, container: str, since: float) -> tuple[Death, ...]:
        """How it ended since then, oldest first, as far as the engine remembers."""
        filters = {"container": container, "event": ["die", "oom"]}
        with _explained("asking for the container's events"):
            now = datetime.now().timestamp()
            events = list(
                self._client.events(since=int(since), until=now, filters=filters, decode=True)
            )
        return deaths_of(events)

    def memory_usage(self, container: str) -> tuple[int | Unavailable, int | Unavailable]:
        """Bytes that it takes now, less the file cache that can be dropped, and at its peak."""
        ended = Unavailable("the container has ended")
        with _explained("asking for the container's memory"):
            try:
                stats = self._client.api.stats(container, stream=False, one_shot=True)
            except ValueError:  # nothing at all is said of one that ends at this moment
                return ended, ended
            except _sdk("errors").APIError as error:
                if error.status_code in _GONE:
                    return ended, ended
                raise
        memory = stats.get("memory_stats") or {}
        used, peak = memory.get("usage"), memory.get("max_usage")
        detail = memory.get("stats") or {}
        cache = detail.get("total_inactive_file", detail.get("inactive_file", 0))
        reason = Unavailable("the engine does not tell")
        return (
            reason if used is None else int(used) - int(cache),
            reason if peak is None else int(peak),
        )

    @cached_property
    def _client(self) -> Any:
        """Connects at the first question."""
        if self._environ.get("DOCKER_HOST"):
            return _sdk().from_env(environment=dict(self._environ), timeout=_SECONDS)
        context = _sdk("context").ContextAPI.get_current_context()
        return _sdk().DockerClient(
            base_url=context.Host, tls=context.TLSConfig or False, timeout=_SECONDS
        )


def _sdk(part: str = "") -> Any:
    """The package docker, or a part of it. It has no types, and takes a quarter of a second."""
    return importlib.import_module(f"docker.{part}" if part else "docker")


@contextmanager
def _explained(doing: str) -> Iterator[None]:
    """Around questions to the engine: what goes wrong is explained."""
    try:
        yield
    except KitError:
        raise
    except (_sdk("errors").DockerException, OSError) as error:  # requests' errors are OSErrors
        raise explain(doing, str(error).splitlines()) from error


def deaths_of(events: Iterable[Mapping[str, Any]]) -> tuple[Death, ...]:
    """The ends among a container's ``die`` and ``oom`` events; the latter comes first."""
    deaths: list[Death] = []
    out_of_memory = False
    for event in events:
        if event["Action"] == "oom":
            out_of_memory = True
        else:
            code = int(event["Actor"]["Attributes"].get("exitCode", 0))
            deaths.append(Death(code, out_of_memory))
            out_of_memory = False
    return tuple(deaths)


def container_of(attrs: Mapping[str, Any]) -> Container:
    """The fields of `docker inspect` that the kit looks at."""
    state, host, labels = attrs["State"], attrs["HostConfig"], attrs["Config"]["Labels"]
    health = (state.get("Health") or {}).get("Status", "none")
    return Container(
        identity=str(attrs["Id"]),
        name=str(attrs["Name"]).lstrip("/"),
        project=str(labels.get(PROJECT_LABEL, "")),
        service=str(labels.get(SERVICE_LABEL, "")),
        image=str(attrs["Image"]),
        running=bool(state["Running"]) and not state.get("Restarting"),
        pid=int(state["Pid"]),
        exit_code=int(state["ExitCode"]),
        out_of_memory=bool(state["OOMKilled"]),
        error=str(state.get("Error") or ""),
        started_at=_seconds(state["StartedAt"]),
        restarts=int(attrs.get("RestartCount", 0)),
        health=health,
        memory_limit_bytes=int(host.get("Memory") or 0) or None,
        owner=str(labels.get(OWNER_LABEL, "")),
        restarting=bool(state.get("Restarting")),
    )


def kept_name(identity: str) -> str:
    """Name of an image that has passed its checks: ``spark-kit-proven:`` and 12 of its digits."""
    return f"{PROVEN}:{identity.removeprefix('sha256:')[:12]}"


def _platform(system: object, processor: object) -> str:
    return f"{system}/{processor}" if system and processor else ""


def _seconds(time: str) -> float:
    """An engine's time, RFC 3339 with nanoseconds, as seconds since the epoch."""
    return datetime.fromisoformat(time).timestamp()
