"""What an image that is there holds: its size, layer by layer, and its labels."""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from kit.containers.build import docker_client
from kit.containers.docker_errors import explain
from kit.errors import EnvironmentNotReady
from kit.records import parse_json


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
