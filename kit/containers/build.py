"""Building an image, why that failed, and what an image that is there holds."""

import os
import re
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kit.containers.docker_errors import explain
from kit.containers.image import BuildOptions, build_command, build_variables
from kit.errors import EnvironmentNotReady, IntegrityError, KitError
from kit.records import parse_json

_KINDS: Mapping[int, type[KitError]] = {3: EnvironmentNotReady, 4: IntegrityError}
_BUILDKIT = {"DOCKER_BUILDKIT": "1"}
_FULL = "no space left on device"
_ENDED = re.compile(r"exit code: (\d+)")
_NO_BASE = re.compile(r" > \[internal\] load metadata for ")
_STEP_OUTPUT = re.compile(r"#\d+ (?:[\d.]+ )?")
_LAST_LINES = 200


def build(
    options: BuildOptions,
    root: Path,
    on_line: Callable[[str], None],
    *,
    environ: Mapping[str, str] = os.environ,
) -> str:
    """Build the image out of the checkout ``root``; returns its tag.

    Args:
        on_line: is told every line that Docker prints.

    Raises:
        EnvironmentNotReady: there is no Docker client with BuildKit, or a step of the build said
            that something is missing.
        IntegrityError: a rewrite does not fit upstream's tree, or a file is not what it should be.
        KitError: the build failed otherwise.
    """
    if options.ca_bundle and not options.ca_bundle.is_file():
        raise EnvironmentNotReady(
            f"there is no {options.ca_bundle}", hint="name a PEM file with KIT_CA_BUNDLE"
        )
    require_buildkit(environ)
    command = build_command(options, root)
    process = subprocess.Popen(
        command,
        env={**environ, **build_variables(options)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    last: deque[str] = deque(maxlen=_LAST_LINES)
    with process:
        for line in process.stdout or ():
            last.append(line.rstrip("\n"))
            on_line(last[-1])
    if process.returncode:
        raise why_it_failed(last)
    return command[command.index("--tag") + 1]  # not worked out again: a file may have changed


def docker_client(environ: Mapping[str, str] = os.environ) -> str:
    """The Docker client on the search path.

    Raises:
        EnvironmentNotReady: there is none.
    """
    if docker := shutil.which("docker", path=environ.get("PATH")):
        return docker
    raise EnvironmentNotReady("there is no docker command", hint="install Docker 20.10 or later")


def require_buildkit(environ: Mapping[str, str] = os.environ) -> None:
    """Return when `docker build` uses BuildKit, which the Dockerfile needs.

    Raises:
        EnvironmentNotReady: there is no Docker client, or it lacks BuildKit.
    """
    docker = docker_client(environ)
    help_text = subprocess.run(
        (docker, "build", "--help"), env={**environ, **_BUILDKIT}, capture_output=True, text=True
    ).stdout
    if "--secret" not in help_text:
        raise EnvironmentNotReady(
            f"{docker} cannot build with BuildKit",
            hint="install Docker's buildx plugin (package docker-buildx-plugin)",
        )


def why_it_failed(log: Sequence[str]) -> KitError:
    """Why a build failed, from the last lines that Docker printed.

    What a command of the kit said inside the build (``error: …``, ``hint: …``) is passed on.
    """
    lines = [_STEP_OUTPUT.sub("", line, count=1) for line in log]
    error, hint = _last(lines, "error: "), _last(lines, "hint: ")
    codes = [int(found[1]) for line in log if (found := _ENDED.search(line))]
    if error and hint:
        kind = _KINDS.get(codes[-1] if codes else 1, KitError)
        return kind(f"the image was not built: {error}", hint=hint)
    full = next((line for line in reversed(lines) if _FULL in line.lower()), None)
    if full is not None:
        return EnvironmentNotReady(
            f"the image was not built: Docker's disk is full ({full.strip()})",
            hint="see docker system df, and make room: docker builder prune, docker image prune",
        )
    reason = next((line for line in reversed(lines) if line.strip()), "docker said nothing")
    if any(_NO_BASE.match(line) for line in log):
        return EnvironmentNotReady(
            f"the base image cannot be had: {reason}",
            hint="name one that this machine can pull with BASE_IMAGE=… (kit: --base-image), such "
            "as a mirror's copy of the pinned one, or set a registry mirror in the Docker daemon",
        )
    return KitError(
        f"the image was not built: {reason}", hint="read what docker build printed above"
    )


def _last(lines: Sequence[str], prefix: str) -> str | None:
    return next((line[len(prefix) :] for line in reversed(lines) if line.startswith(prefix)), None)


@dataclass(frozen=True)
class Layer:
    """One layer: the instruction that made it, and what it takes unpacked."""

    instruction: str
    size_bytes: int


@dataclass(frozen=True)
class ImageInfo:
    """An image of this machine's Docker engine.

    Attributes:
        size_bytes: of all layers, unpacked; containerd's own figure has the packed ones in it, too.
        layers: those that hold files, the base first.
    """

    tag: str
    identity: str
    created: str
    size_bytes: int
    layers: tuple[Layer, ...]
    labels: Mapping[str, str]


def inspect(tag: str) -> ImageInfo:
    """Look at the image ``tag``, with the Docker client that builds it.

    Raises:
        EnvironmentNotReady: the engine does not answer, or has no such image.
        ServiceError: Docker failed otherwise.
    """
    image = parse_json(_docker("image", "inspect", tag))[0]
    history = _docker("history", "--no-trunc", "--human=false", "--format", "{{json .}}", tag)
    layers = [_layer(parse_json(line)) for line in reversed(history.splitlines())]
    return ImageInfo(
        tag=tag,
        identity=str(image["Id"]),
        created=str(image["Created"]),
        size_bytes=sum(layer.size_bytes for layer in layers),
        layers=tuple(layer for layer in layers if layer.size_bytes),
        labels=dict(image["Config"]["Labels"] or {}),
    )


def _docker(*arguments: str) -> str:
    done = subprocess.run(
        (docker_client(), *arguments), capture_output=True, text=True, check=False
    )
    if "no such image" in done.stderr.lower():
        raise EnvironmentNotReady(
            f"there is no image {arguments[-1]}", hint="build it: make image, or kit image build"
        )
    if done.returncode:
        raise explain(f"docker {arguments[0]}", done.stderr.splitlines())
    return done.stdout


def _layer(entry: Mapping[str, str]) -> Layer:
    """A layer out of a line of `docker history`; one that was imported has no instruction."""
    instruction = entry["CreatedBy"].removeprefix("/bin/sh -c ").removesuffix(" # buildkit")
    return Layer(instruction.strip() or "base", int(entry["Size"]))
