"""Docker Compose: the only thing that changes containers.

`docker compose` (v2, a plugin) and docker-compose 1.29 both do.
"""

import fcntl
import os
import re
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kit.containers.docker_errors import explain
from kit.errors import EnvironmentNotReady
from kit.files import writing
from kit.settings import bundled, instance_name

FILE_NAME = "compose.yaml"
PROJECT = "spark-kit"
COMMANDS = (("docker", "compose"), ("docker-compose",))
# The last of version 1, which Debian and Ubuntu still ship.
OLDEST = (1, 29, 0)
_NUMBERS = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")
_VERSION_SECONDS = 15.0
# Compose's own reason stands in its last lines.
_LAST_LINES = 50


@dataclass(frozen=True)
class ComposeProgram:
    """What to call, such as ``("docker", "compose")``."""

    command: tuple[str, ...]
    version: tuple[int, int, int]


def find_compose(environ: Mapping[str, str] = os.environ) -> ComposeProgram:
    """The first of both that is there and new enough.

    Raises:
        EnvironmentNotReady: none is, or the engine's client says something else.
    """
    seen = []
    for command in COMMANDS:
        version = _version(command, environ)
        if isinstance(version, str):
            seen.append(f"{' '.join(command)}: {version}")
        elif version < OLDEST:
            seen.append(f"{' '.join(command)} is {'.'.join(map(str, version))}, too old")
        else:
            return ComposeProgram(command, version)
    raise EnvironmentNotReady(
        f"there is no Docker Compose ({'; '.join(seen)})",
        hint="install the package docker-compose-plugin; or use --runtime local",
    )


def project_name(environ: Mapping[str, str] = os.environ) -> str:
    """The Compose project: ``COMPOSE_PROJECT_NAME``, else ``spark-kit``, and ``-`` the instance."""
    project, instance = environ.get("COMPOSE_PROJECT_NAME") or PROJECT, instance_name(environ)
    return f"{project}-{instance}" if instance else project


@dataclass(frozen=True)
class Compose:
    """One project, made of the kit's ``compose.yaml``.

    Attributes:
        variables: that the file leaves open; they win over the environment and a .env file.
        lock_file: held by whatever runs, so that one that has outlived a killed `kit up` ends
            before the next begins.
    """

    program: ComposeProgram
    project: str
    variables: Mapping[str, str]
    environ: Mapping[str, str]
    lock_file: Path | None = None

    @property
    def file(self) -> Path:
        """The file that says what runs."""
        return bundled(FILE_NAME)

    def up_command(self, service: str) -> tuple[str, ...]:
        """Makes and starts the container of ``service``, of an image that is there."""
        return (*self._base, "up", "--detach", "--no-build", service)

    def down_command(self) -> tuple[str, ...]:
        """Ends and removes everything of the project."""
        return (*self._base, "down")

    def remove_command(self, service: str) -> tuple[str, ...]:
        """Ends and removes the container of ``service`` alone."""
        return (*self._base, "rm", "--stop", "--force", service)

    def pull_command(self, service: str) -> tuple[str, ...]:
        """Brings the image of ``service`` from its registry."""
        return (*self._base, "pull", service)

    def config(self) -> str:
        """The file as Compose reads it, every variable filled in."""
        return "\n".join(self.run((*self._base, "config"), "docker compose config"))

    def run(
        self, command: tuple[str, ...], doing: str, on_line: Callable[[str], None] | None = None
    ) -> list[str]:
        """Run one of the commands; returns the last lines that it printed.

        Raises:
            EnvironmentNotReady, ServiceError: it failed, and why.
        """
        environ = {k: v for k, v in self.environ.items() if k not in self.variables}
        last: deque[str] = deque(maxlen=None if doing.endswith("config") else _LAST_LINES)
        with (
            _held(self.lock_file) as lock,
            subprocess.Popen(
                command,
                env={**environ, **self.variables},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                pass_fds=lock,
            ) as process,
        ):
            for line in process.stdout or ():
                last.append(line.rstrip("\n"))
                if on_line is not None:
                    on_line(last[-1])
        if process.returncode:
            raise explain(doing, list(last))
        return list(last)

    @property
    def _base(self) -> tuple[str, ...]:
        """Compose, told of the file, the project, and the profile that has the CPU's service."""
        where = ("--project-name", self.project, "--file", str(self.file))
        return (*self.program.command, *where, "--profile", "cpu")


@contextmanager
def _held(path: Path | None) -> Iterator[tuple[int, ...]]:
    """The lock at ``path``, as file descriptors for a child to inherit: while it lives, it is held.

    Raises:
        EnvironmentNotReady: the file cannot be written.
    """
    if path is None:
        yield ()
        return
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield (file.fileno(),)


def _version(command: tuple[str, ...], environ: Mapping[str, str]) -> tuple[int, int, int] | str:
    """The version, or what is wrong."""
    try:
        done = subprocess.run(
            (*command, "version", "--short"),
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VERSION_SECONDS,
            check=False,
        )
    except OSError:
        return "not installed"
    except subprocess.TimeoutExpired:
        return f"silent for {_VERSION_SECONDS:.0f} s"
    found = _NUMBERS.match(done.stdout.strip())
    if done.returncode or found is None:
        lines = done.stderr.strip().splitlines()
        return lines[0] if lines else "it has no version"
    return int(found[1]), int(found[2]), int(found[3])
