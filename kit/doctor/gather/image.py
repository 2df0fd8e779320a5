"""The kit's container image: whether the engine has it, and what it was made of."""

from kit.containers.docker import Engine
from kit.containers.image import REPOSITORY, Target
from kit.containers.wanted_image import wanted_image
from kit.doctor.facts import Docker, Facts, Image, Torch
from kit.doctor.gather.serving import usable_gpu
from kit.doctor.gather.torch import published
from kit.doctor.request import Request
from kit.memory.unavailable import Unavailable
from kit.upstream.selection import rewrite_digest, select

VERSION_LABEL = "org.opencontainers.image.version"
REWRITES_LABEL = "spark-kit.upstream.rewrites"
TORCH, CUDA = "2.10.0", (12, 8)
"""In the image for CUDA, as requirements/torch-cuda12.txt pins it."""


def look(request: Request, facts: Facts) -> Image | Unavailable:
    """The image that `kit up` would run here: ``KIT_IMAGE``, else the one of this checkout."""
    if not isinstance(facts.docker, Docker):
        return facts.docker
    target: Target = "cuda" if _on_gpu(request, facts) else "cpu"
    wanted = wanted_image(request.environ.get("KIT_IMAGE"), target, request.environ)
    found = Engine(request.environ).image(wanted.name)
    labels = found.labels if found else {}
    for_cuda = wanted.name.startswith(f"{REPOSITORY}:") and "-cuda-" in wanted.name
    return Image(
        wanted=wanted.name,
        present=found is not None,
        kit_version=labels.get(VERSION_LABEL),
        rewrites=labels.get(REWRITES_LABEL),
        expected_rewrites=rewrite_digest(select()),
        torch=_torch() if for_cuda else Unavailable("it is not the kit's image for CUDA"),
        named=wanted.named,
    )


def _on_gpu(request: Request, facts: Facts) -> bool:
    if request.decided is not None:
        return request.decided.plan.device == "cuda"
    return usable_gpu(facts) is not None


def _torch() -> Torch:
    architectures, source = published(TORCH)
    return Torch(TORCH, CUDA, architectures, source)
