"""The kit's container image: whether the engine has it, and what it was made of."""

import json
from collections.abc import Mapping
from typing import Any

from kit.doctor.facts import Docker, Facts, Image, TorchBuild
from kit.doctor.gather.commands import ran
from kit.doctor.gather.serving import usable_gpu
from kit.doctor.gather.torch import published
from kit.doctor.request import Request
from kit.memory.unavailable import Unavailable
from kit.stack.image import REPOSITORY, BuildOptions, checkout, image_tag
from kit.upstream.selection import rewrite_digest, select

SECONDS = 4.0
VERSION_LABEL = "org.opencontainers.image.version"
REWRITES_LABEL = "spark-kit.upstream.rewrites"
TORCH, CUDA = "2.10.0", (12, 8)
"""In the image for CUDA, as requirements/torch-cuda12.txt pins it."""


def look(request: Request, facts: Facts) -> Image | Unavailable:
    """The image that `kit up` would run here: ``KIT_IMAGE``, else the one of this checkout."""
    if not isinstance(facts.docker, Docker):
        return facts.docker
    on_gpu = usable_gpu(facts) is not None
    name = _wanted(request.environ, on_gpu)
    done = ran(["docker", "image", "inspect", name], SECONDS, request.environ)
    found = json.loads(done.out) if done is not None and done.exit_code == 0 else []
    labels: Mapping[str, Any] = found[0]["Config"].get("Labels") or {} if found else {}
    own = name.startswith(f"{REPOSITORY}:")
    return Image(
        wanted=name,
        present=bool(found),
        kit_version=labels.get(VERSION_LABEL),
        rewrites=labels.get(REWRITES_LABEL),
        other=tuple(image for image in _images(request.environ) if image != name),
        expected_rewrites=rewrite_digest(select()),
        torch=_torch() if own and on_gpu else Unavailable("it is not the kit's image for CUDA"),
    )


def _wanted(environ: Mapping[str, str], on_gpu: bool) -> str:
    chosen = environ.get("KIT_IMAGE")
    options = BuildOptions.from_environ("cuda" if on_gpu else "cpu", environ)
    return chosen or image_tag(options, checkout())


def _torch() -> TorchBuild:
    architectures, source = published(TORCH)
    return TorchBuild(TORCH, CUDA, architectures, source)


def _images(environ: Mapping[str, str]) -> tuple[str, ...]:
    command = ["docker", "image", "ls", REPOSITORY, "--format", "{{.Repository}}:{{.Tag}}"]
    done = ran(command, SECONDS, environ)
    return tuple(done.out.split()) if done is not None else ()
