"""The container runtime: Compose starts and stops it, the engine tells what has become of it."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from kit.containers.compose import (
    KEY_VARIABLE,
    SERVICES,
    Compose,
    find_compose,
    project_name,
    service_name,
    variables,
)
from kit.containers.docker import Container, Engine, kept_name
from kit.containers.wanted_image import require_runnable
from kit.errors import EnvironmentNotReady, KitError
from kit.files import writing
from kit.memory.probes import cgroup
from kit.memory.probes.proc import PROC, descendants
from kit.memory.unavailable import Unavailable
from kit.runtime import state as states
from kit.runtime.orphan import Orphan, owner_of
from kit.runtime.protocol import (
    COMMIT_LABEL,
    REWRITES_LABEL,
    VERSION_LABEL,
    Details,
    EngineName,
    Image,
    Launch,
    MemoryUse,
    Running,
    RuntimeName,
    ServeSpec,
    docker_engine_found,
)
from kit.runtime.state import State
from kit.settings import api_key_file

_KEPT_LINES = 10_000
"""Of a container's log, which goes with it when it is removed."""


class ContainerImages:
    """The images of one Docker engine.

    Args:
        compose: fills compose.yaml in, see :meth:`ContainerRuntime.compose`; Compose pulls, by the
            credentials and mirrors that it would start with.
    """

    def __init__(self, engine: Engine, compose: Callable[..., Compose]) -> None:
        self._engine, self._compose = engine, compose

    def find(self, name: str) -> Image | None:
        """The engine's own answer."""
        return self._engine.image(name)

    def require(self, name: str) -> Image:
        """The image, or how to see which ones there are."""
        if (found := self._engine.image(name)) is None:
            raise EnvironmentNotReady(
                f"the Docker engine has no image {name}",
                hint="docker image ls shows what it has; name one with KIT_IMAGE",
            )
        return found

    def require_runnable(self, spec: ServeSpec) -> None:
        """One that is gone is Compose's to complain of."""
        found = self._engine.image(spec.image.identity) if spec.image else None
        if spec.image and found is not None:
            require_runnable(found, spec.image.name, self._engine.platform())

    def pulling(self, spec: ServeSpec, name: str) -> Launch:
        """`docker compose pull`."""
        command = self._compose(spec, image=name).pull_command(service_name(spec))
        return Launch(command, {"KIT_IMAGE": name})

    def pull(self, spec: ServeSpec, name: str, on_line: Callable[[str], None]) -> Image:
        """Also where one of its name is here."""
        compose = self._compose(spec, image=name)
        compose.run(compose.pull_command(service_name(spec)), "docker compose pull", on_line)
        return self.require(name)

    def keep(self, spec: ServeSpec) -> None:
        """By a name of the kit's own, so that nothing prunes it."""
        if spec.image is not None:
            self._engine.keep(spec.image.identity)


class ContainerRuntime:
    """One service as a container of compose.yaml.

    Attributes:
        engine: answers questions about it.
    """

    name: RuntimeName = "container"

    def __init__(self, state_dir: Path, *, environ: Mapping[str, str] = os.environ) -> None:
        self._state_file = state_dir / states.FILE_NAME
        self.log_file = state_dir / states.LOG_NAME
        self._environ = environ
        self._owner = owner_of(state_dir)
        self.engine = Engine(environ)

    @property
    def images(self) -> ContainerImages:
        """Those of the engine."""
        return ContainerImages(self.engine, self.compose)

    def require_installed(self, engine: EngineName = "native") -> None:
        """Compose is there and the engine answers; what the server imports is in the image."""
        find_compose(self._environ)
        self.engine.version()

    def launch(self, spec: ServeSpec) -> Launch:
        """Compose's command line; the API key is left out of what is shown."""
        compose = self.compose(spec)
        shown = {name: text for name, text in compose.variables.items() if name != KEY_VARIABLE}
        return Launch(compose.up_command(service_name(spec)), shown)

    def compose(
        self, spec: ServeSpec, *, project: str | None = None, image: str | None = None
    ) -> Compose:
        """compose.yaml with the variables of ``spec``.

        Args:
            project: None: the one that the environment names.
            image: None: that of ``spec``.

        Raises:
            EnvironmentNotReady: there is no Compose.
        """
        image = image or self._image(spec)
        filled = variables(
            spec,
            image=image,
            owner=self._owner,
            api_key=self._environ.get(KEY_VARIABLE),
            api_key_file=api_key_file(self._environ),
        )
        project = project or project_name(self._environ)
        lock = self._state_file.with_name("compose.lock")
        return Compose(find_compose(self._environ), project, filled, self._environ, lock)

    def start(self, spec: ServeSpec) -> Running:
        """Make and start the container.

        Raises:
            EnvironmentNotReady: something that the container needs is missing.
            ServiceError: the engine could not start it.
        """
        if (orphan := self.orphan(spec.port)) is not None:
            raise EnvironmentNotReady(
                f"{orphan.what}, and kit up has no record of it", hint=f"end it: {orphan.remedy}"
            )
        self.require_vacancy()
        compose = self.compose(spec)
        state = State("container", spec, time.time(), project=compose.project)
        states.write(self._state_file, state)
        try:
            compose.run(compose.up_command(service_name(spec)), "docker compose up")
        except KitError:
            self.stop()
            raise
        return self._running(state)

    def status(self) -> Running | None:
        """The container that the state file names."""
        state = self._read()
        return None if state is None else self._running(state)

    def stop(self) -> bool:
        """Let Compose end and remove the container; its last log lines are kept."""
        state = self._read()
        if state is None:
            return False
        compose = self.compose(state.spec, project=state.project)
        found = self.engine.containers(compose.project)
        server = self._server(state, found)
        if server is not None:
            self._keep_log(server)
        others = [c for c in found if c is not server and self._is_foreign(c)]
        service = service_name(state.spec)
        guests = self.engine.attached(f"{compose.project}_default") - {c.identity for c in found}
        if server is not None or not others:
            stays = others or guests  # the network does, then
            command = compose.remove_command(service) if stays else compose.down_command()
            compose.run(command, "docker compose down")
        with writing(self._state_file):
            self._state_file.unlink(missing_ok=True)
        return server is not None and server.running

    def logs(self, lines: int, *, follow: bool = False, this_run: bool = False) -> Iterator[str]:
        """Of the container, while there is one; else what was kept of the last."""
        container = self.container()
        if container is not None:
            yield from self.engine.logs(container.identity, lines, follow=follow)
        elif self.log_file.exists() and not this_run:
            with self.log_file.open(encoding="utf-8", errors="replace") as file:
                yield from (line.rstrip("\n") for line in deque(file, maxlen=lines))

    def processes(self) -> tuple[int, ...] | Unavailable:
        """Those in the container, if the engine is on this machine and lets us see them."""
        container = self.container()
        if container is None or not container.running:
            return Unavailable("no container runs")
        return _visible(container)

    def container(self) -> Container | None:
        """The container that the state file names; None: there is none (any more)."""
        state = self._read()
        if state is None or state.project is None:
            return None
        return self._server(state, self.engine.containers(state.project))

    def require_vacancy(self) -> None:
        """No other kit has a service in the project, which a start would replace."""
        project = project_name(self._environ)
        found = [c for c in self.engine.containers(project) if c.service in SERVICES]
        foreign = next((each for each in found if self._is_foreign(each)), None)
        if foreign is None or (self._read() is not None and not foreign.owner):
            return
        folder = foreign.owner.partition(":")[2]
        whose = f"of the kit with the state folder {folder}" if folder else "started without a kit"
        raise EnvironmentNotReady(
            f"project {project} has a service already: container {foreign.name}, {whose}",
            hint="give yours a name: kit up --instance NAME, and a port of its own",
        )

    def details(self, running: Running) -> Details | None:
        """Of the container and its image, as the engine tells them."""
        container = self.container()
        if container is None:
            return None
        used, peak = self.engine.memory_usage(container.identity)
        if isinstance(peak, Unavailable) and isinstance(running.pid, int):
            group = cgroup.group_of(running.pid)  # version 2: the engine does not ask for it
            peak = peak if isinstance(group, Unavailable) else cgroup.usage(group).peak_bytes
        image = self.engine.image(container.image)
        labels: Mapping[str, str] = image.labels if image else {}
        named = running.spec.image
        return Details(
            where=running.where,
            uptime_seconds=running.uptime_seconds,
            memory=MemoryUse(used, peak, container.memory_limit_bytes),
            image=named.name if named else container.image,
            digest=image.digest if image else container.image,
            kit_version=labels.get(VERSION_LABEL),
            upstream_commit=labels.get(COMMIT_LABEL),
            rewrites=labels.get(REWRITES_LABEL),
            health=container.health,
            restarts=container.restarts,
        )

    def configuration(self) -> str | None:
        """compose.yaml, filled in."""
        state = self._read()
        return None if state is None else self.compose(state.spec, project=state.project).config()

    def orphan(self, port: int) -> Orphan | None:
        """A container of this state folder that the state does not name, on whatever port.

        Another kit's is none of our business, whatever it is called.
        """
        if self._read() is not None or not docker_engine_found(self._environ):
            return None
        project = project_name(self._environ)
        try:
            found = [c for c in self.engine.containers(project) if c.owner == self._owner]
        except KitError:  # whoever needs the engine will say so
            return None
        if not found:
            return None
        where = f"container {found[0].name}"
        return Orphan(where, f"{where} serves for the kit", f"docker rm --force {found[0].name}")

    def _read(self) -> State | None:
        state = states.read(self._state_file)
        return state if state is not None and state.runtime == "container" else None

    def _running(self, state: State) -> Running:
        found = self.engine.containers(state.project) if state.project else ()
        container = self._server(state, found)
        if container is None:
            gone = Unavailable("its container is gone")
            where = f"container of service {service_name(state.spec)}"
            return Running(state.spec, False, where, gone, state.started_at, gone)
        code, out_of_memory = self._end(container, state.started_at)
        visible = _visible(container)
        return Running(
            spec=state.spec,
            alive=container.running,
            where=f"container {container.name}",
            pid=visible if isinstance(visible, Unavailable) else visible[0],
            started_at=container.started_at,
            exit_code=code,
            out_of_memory=out_of_memory,
            restarts=container.restarts,
            fate=_fate(container),
        )

    def _end(self, container: Container, since: float) -> tuple[int | Unavailable, bool]:
        """Exit code of its last end, and whether its memory limit was why; now or before."""
        if container.restarts:
            deaths = self.engine.deaths(container.identity, since)
            code = deaths[-1].exit_code if deaths else Unavailable("the engine has forgotten it")
            return code, any(death.out_of_memory for death in deaths)
        if container.running:
            return Unavailable("it runs"), False
        return container.exit_code, container.out_of_memory

    def _server(self, state: State, found: tuple[Container, ...]) -> Container | None:
        """Ours; one that does not say whose it is was started by a kit that did not say it yet."""
        service = service_name(state.spec)
        ours = [c for c in found if c.service == service and c.owner in ("", self._owner)]
        return next(iter(ours), None)

    def _is_foreign(self, container: Container) -> bool:
        return container.owner != self._owner

    def _image(self, spec: ServeSpec) -> str:
        """The image's name as long as it means the image of ``spec``, else what it is kept as."""
        if spec.image is None:
            return ""
        name, identity = spec.image.name, spec.image.identity
        for each in (name, kept_name(identity)) if identity else ():
            found = self.engine.image(each)
            if found is not None and found.identity == identity:
                return each
        return identity or name

    def _keep_log(self, container: Container) -> None:
        lines = self.engine.logs(container.identity, _KEPT_LINES)
        with writing(self.log_file):
            self.log_file.touch(mode=0o600)
            with self.log_file.open("w", encoding="utf-8", errors="replace") as file:
                file.writelines(f"{line}\n" for line in lines)


def _fate(container: Container) -> str:
    if not container.restarting:
        return "has ended"
    return f"has ended, and the engine tries again ({container.restarts} times so far)"


def _visible(container: Container) -> tuple[int, ...] | Unavailable:
    """The container's processes on this machine, each of which its control group names."""
    try:
        groups = (PROC / str(container.pid) / "cgroup").read_text()
    except OSError:
        groups = ""
    if container.pid == 0 or container.identity not in groups:
        return Unavailable("the engine's processes cannot be seen from here")
    return (container.pid, *descendants(container.pid))
