"""Docker Compose: the only thing that changes containers.

`docker compose` (v2, a plugin) and docker-compose 1.29 both do.
"""

import fcntl
import os
import re
import socket
import stat
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from kit.containers.docker_errors import explain
from kit.errors import EnvironmentNotReady, UsageError
from kit.files import writing
from kit.runtime.orphan import OWNER_VARIABLE
from kit.runtime.protocol import ServeSpec
from kit.settings import bundled, instance_name
from kit.units import GIB

GPU_SERVICE, CPU_SERVICE = "spark", "spark-cpu"
SERVICES = (GPU_SERVICE, CPU_SERVICE)
KEY_VARIABLE = "KIT_API_KEY"
_MEMORY_LIMIT_BYTES = 40 * GIB
"""As compose.yaml has it, where nobody promised less."""


def service_name(spec: ServeSpec) -> str:
    """The service of compose.yaml that serves ``spec``."""
    return GPU_SERVICE if spec.device == "cuda" else CPU_SERVICE


def variables(
    spec: ServeSpec,
    *,
    image: str,
    owner: str,
    api_key: str | None = None,
    api_key_file: Path | None = None,
) -> dict[str, str]:
    """Every variable of compose.yaml that ``spec`` decides.

    Args:
        image: name or identity of the image to run.
        owner: whose container it will be, see :func:`kit.runtime.orphan.owner_of`.
        api_key_file: what holds the key instead.

    Raises:
        UsageError: the host is no address of a network interface.
    """
    given = {
        "KIT_IMAGE": image,
        OWNER_VARIABLE: owner,
        "KIT_MODEL_DIR": str(spec.model_dir),
        "KIT_MODEL_NAME": spec.name,
        "KIT_HOST": published_address(spec.host),
        "KIT_PORT": str(spec.port),
        "KIT_ENGINE": spec.engine,
        "KIT_CONTEXT": str(spec.context),
        "KIT_MAX_SEQUENCES": str(spec.max_sequences),
        "KIT_MAX_RAM": _size(spec.max_ram_bytes),
        "KIT_MAX_VRAM": _size(spec.max_vram_bytes),
        "KIT_MEMORY_LIMIT": str(spec.max_ram_bytes or _MEMORY_LIMIT_BYTES),
        KEY_VARIABLE: "" if api_key_file else api_key or "",
        "KIT_API_KEY_FILE": str(api_key_file or os.devnull),
    }
    chosen = {"KIT_GPU": spec.gpu, "KIT_USER": spec.user}
    return given | {name: value for name, value in chosen.items() if value}


def published_address(host: str) -> str:
    """``host`` as Compose takes it: a number, IPv6 in brackets.

    Raises:
        UsageError: it is no address.
    """
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", 0, type=socket.SOCK_STREAM)  # noqa: S104
    except socket.gaierror as error:
        raise UsageError(
            f"{host!r} is not an address of this machine", hint="--host 127.0.0.1"
        ) from error
    address = str(min(found, key=lambda entry: entry[0] != socket.AF_INET)[4][0])
    return f"[{address}]" if ":" in address else address


def _size(size_bytes: int | None) -> str:
    return "" if size_bytes is None else f"{size_bytes}B"


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


_ROOT = 0


def require_self_contained(directory: Path) -> None:
    """Return when no link in ``directory`` leads out of it: it is all that a container sees.

    Raises:
        EnvironmentNotReady: one does, as in Hugging Face's cache, or leads nowhere.
    """
    root = directory.resolve()
    for path in sorted(directory.rglob("*")):
        if not path.is_symlink():
            continue
        target = path.resolve()
        if not target.exists():
            raise EnvironmentNotReady(
                f"{path} is a link to {path.readlink()}, which is not there",
                hint="fetch or copy the model again",
            )
        if not target.is_relative_to(root):
            copy = quote(str(directory.with_name(f"{directory.name}-files")))
            raise EnvironmentNotReady(
                f"{path} is a link out of its folder, to {target}, which a container does not see",
                hint=f"serve real files: cp -rL {quote(str(directory))} {copy} (-rLl takes no room "
                "on the same disk); or serve it without a container: --runtime local",
            )


def container_user(directory: Path, key_file: Path | None = None) -> str | None:
    """``uid:gid`` that a container must run as to read ``directory``; None: any user can.

    Only the folder itself and what is in it count, and ``key_file``: a container reaches them by no
    other way.

    Raises:
        EnvironmentNotReady: only root can, and the container does not run as root; or one user can
            read the one and another the other.
    """
    mounted = [directory, *directory.rglob("*"), *([] if key_file is None else [key_file])]
    private = [path for path in mounted if not _public(path)]
    if not private:
        return None
    owner = private[0].stat()
    if owner.st_uid == _ROOT:
        raise EnvironmentNotReady(
            f"only root can read {private[0]}, and the container does not run as root",
            hint=f"let others read it: chmod -R a+rX {quote(str(directory))}"
            if private[0] != key_file
            else f"give it to whom the weights belong to: chown UID {quote(str(key_file))}",
        )
    if key_file in private and key_file.stat().st_uid != owner.st_uid:
        raise EnvironmentNotReady(
            f"no user but root can read both {directory} and {key_file}",
            hint=f"let the owner of the first read the second: chown {owner.st_uid} "
            f"{quote(str(key_file))}",
        )
    return f"{owner.st_uid}:{owner.st_gid}"


def _public(path: Path) -> bool:
    """Whether everybody may read the file, or enter and list the folder."""
    mode = path.stat().st_mode
    needed = stat.S_IROTH | stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH
    return mode & needed == needed
