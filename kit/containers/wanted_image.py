"""The image that a container is made from: which one is wanted, and how to get it."""

import os
import re
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from kit.containers.docker import Engine
from kit.containers.docker_errors import explain
from kit.containers.image import (
    REPOSITORY,
    BuildOptions,
    Target,
    build_command,
    build_variables,
    checkout,
    image_tag,
    pinned_base,
    shown_variables,
)
from kit.errors import EnvironmentNotReady, IntegrityError, KitError
from kit.files import writing
from kit.memory.plan.torch_build import CPU_BUILD, CUDA_BUILD, TorchBuild
from kit.records import parse_json
from kit.runtime.protocol import Image, docker_engine_found

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
        on_line: called with every line that Docker prints.

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


BASE_LABEL = "org.opencontainers.image.base.name"
_CUDA_LIBRARIES_BYTES = 3 * 10**9
"""They take more than that; an image without them takes half as much."""
_SHELLS = frozenset({"sh", "bash", "ash", "dash", "zsh", "python", "python3"})
"""What an image runs that nobody gave an entry point: it would end at once."""


@dataclass(frozen=True)
class WantedImage:
    """An image by name.

    Attributes:
        named: the user named it (``KIT_IMAGE``), so that a registry has it; else it is built.
    """

    name: str
    target: Target
    named: bool
    environ: Mapping[str, str]

    @property
    def build_options(self) -> BuildOptions:
        """How it is built, if it is."""
        return BuildOptions.from_environ(self.target, self.environ)

    @property
    def build_command(self) -> tuple[str, ...]:
        """What builds it."""
        return build_command(self.build_options, checkout())

    @property
    def shown_variables(self) -> dict[str, str]:
        """What that needs in its environment, without the values of secrets."""
        return shown_variables(self.build_options)


def wanted_image(name: str | None, target: Target, environ: Mapping[str, str]) -> WantedImage:
    """The image called ``name``; None: the one that this checkout makes.

    That one stands on the base that is asked for, else on that of the last build here, so that
    what was built with ``BASE_IMAGE=…`` once is found, and built, without it.

    Raises:
        EnvironmentNotReady: there is no checkout to make one from.
    """
    if name:
        return WantedImage(name, target, True, environ)
    root = checkout()
    if not environ.get("KIT_BASE_IMAGE") and (base := _last_base(target, root, environ)):
        environ = {**environ, "KIT_BASE_IMAGE": base}
    tag = image_tag(BuildOptions.from_environ(target, environ), root)
    return WantedImage(tag, target, False, environ)


def _last_base(target: Target, root: Path, environ: Mapping[str, str]) -> str | None:
    """The base of the newest build, as its label says; None: it is the pinned one, or not known."""
    if not docker_engine_found(environ):
        return None
    try:
        newest = Engine(environ).image(f"{REPOSITORY}:{target}")
    except KitError:  # whoever needs the engine will say so
        return None
    base = newest.labels.get(BASE_LABEL) if newest else None
    return None if base == pinned_base(root / "docker/Dockerfile") else base


def build_image(wanted: WantedImage, log: Path, on_line: Callable[[str], None]) -> None:
    """Build it out of this checkout.

    Args:
        log: keeps what the build prints.
        on_line: called with each line of it.

    Raises:
        EnvironmentNotReady: something that the build needs is missing.
        KitError: the build failed.
    """
    with writing(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as file:

            def keep(line: str) -> None:
                file.write(f"{line}\n")
                on_line(line)

            build(wanted.build_options, checkout(), keep, environ=wanted.environ)


def require_runnable(image: Image, name: str, platform: str) -> None:
    """Return when an engine for ``platform`` can run the image as a server.

    Raises:
        EnvironmentNotReady: it is for another processor, or runs no server.
    """
    if image.platform and platform and image.platform != platform:
        raise EnvironmentNotReady(
            f"image {name} is for {image.platform}, and the Docker engine runs {platform}",
            hint="name one that is built for this machine with KIT_IMAGE; make image builds one",
        )
    if not image.command or PurePath(image.command[0]).name in _SHELLS:
        runs = " ".join(image.command) or "nothing"
        raise EnvironmentNotReady(
            f"image {name} is not one of spark-kit: by itself it runs {runs}",
            hint="check KIT_IMAGE; make image builds one",
        )


def torch_in(image: Image | None, target: Target) -> TorchBuild:
    """The build of torch in the image, told by its size; the larger one where there is none yet.

    An image for the CPU has the CUDA build where the package index offers no other.
    """
    small = image is not None and image.size_bytes < _CUDA_LIBRARIES_BYTES
    return CPU_BUILD if target == "cpu" and small else CUDA_BUILD
