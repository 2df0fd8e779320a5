"""The image that a container is made from: which one is wanted, and how to get it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from kit.containers.build import build
from kit.containers.docker import Engine, Image
from kit.containers.image import (
    REPOSITORY,
    BuildOptions,
    Target,
    build_command,
    checkout,
    image_tag,
    pinned_base,
    shown_variables,
)
from kit.errors import EnvironmentNotReady, KitError
from kit.files import writing
from kit.memory.torch_build import CPU_BUILD, CUDA_BUILD, TorchBuild
from kit.runtime.protocol import docker_engine_found

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
        log: keeps what the build prints, line by line, which ``on_line`` is told.

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


def require_image(engine: Engine, name: str) -> Image:
    """The image of that name.

    Raises:
        EnvironmentNotReady: the engine has none.
    """
    if (found := engine.image(name)) is None:
        raise EnvironmentNotReady(
            f"the Docker engine has no image {name}",
            hint="docker image ls shows what it has; name one with KIT_IMAGE",
        )
    return found


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
