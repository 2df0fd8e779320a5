from dataclasses import replace

import pytest

from kit.containers import wanted_image as container_image
from kit.containers.image import BuildOptions, checkout, image_tag, pinned_base
from kit.containers.runtime import ContainerImages
from kit.containers.wanted_image import (
    BASE_LABEL,
    require_runnable,
    torch_in,
    wanted_image,
)
from kit.errors import EnvironmentNotReady
from kit.memory.plan.torch_build import CPU_BUILD, CUDA_BUILD
from kit.runtime.protocol import Image
from kit.units import GIB

SMALL = Image("sha256:1", ("spark-kit:cpu",), (), GIB, {})
LARGE = Image("sha256:2", ("spark-kit:cpu",), (), 6 * GIB, {})


class NoImages:
    def image(self, name):
        return None


def test_a_named_image_is_the_users():
    wanted = wanted_image("registry.example/spark-kit:1", "cuda", {})
    assert (wanted.name, wanted.named) == ("registry.example/spark-kit:1", True)


def test_without_a_name_it_is_what_this_checkout_makes():
    wanted = wanted_image(None, "cpu", {"KIT_BUILD_NETWORK": "host"})
    assert wanted.name.startswith("spark-kit:")
    assert "-cpu-" in wanted.name
    assert not wanted.named
    assert wanted.build_command[:2] == ("docker", "build")
    assert wanted.name in wanted.build_command
    assert "host" in wanted.build_command
    assert wanted.shown_variables == {"DOCKER_BUILDKIT": "1"}


@pytest.mark.parametrize(
    ("image", "target", "build"),
    [
        (SMALL, "cpu", CPU_BUILD),
        (LARGE, "cpu", CUDA_BUILD),
        (LARGE, "cuda", CUDA_BUILD),
        (None, "cpu", CUDA_BUILD),
    ],
)
def test_the_build_of_torch_in_it(image, target, build):
    assert torch_in(image, target) is build


@pytest.mark.parametrize("asked", [None, "asked/base:1"])
@pytest.mark.parametrize("last", ["mirror/base:3.12", "pinned", None])
def test_the_base_of_the_last_build_is_taken_unless_another_is_asked_for(monkeypatch, asked, last):
    pinned = pinned_base(checkout() / "docker/Dockerfile")
    labels = {} if last is None else {BASE_LABEL: pinned if last == "pinned" else last}

    class LastBuild:
        def __init__(self, environ): ...

        def image(self, name):
            assert name == "spark-kit:cpu"
            return replace(SMALL, labels=labels)

    monkeypatch.setattr(container_image, "Engine", LastBuild)
    environ = {"DOCKER_HOST": "unix:///x", **({"KIT_BASE_IMAGE": asked} if asked else {})}
    wanted = wanted_image(None, "cpu", environ)
    base = asked or (None if last == "pinned" else last)
    assert wanted.build_options.base_image == base
    assert wanted.name == image_tag(BuildOptions("cpu", base_image=base), checkout())
    assert (f"BASE_IMAGE={base}" in wanted.build_command) == (base is not None)


SERVER = ("kit", "serve", "/model")


@pytest.mark.parametrize(
    ("platform", "command"),
    [
        ("linux/amd64", SERVER),
        ("linux/amd64", ("tini", "--", *SERVER)),
        ("linux/amd64", ("/start.sh",)),
        ("", SERVER),
    ],
)
def test_an_image_that_can_run(platform, command):
    require_runnable(replace(SMALL, platform=platform, command=command), "x", "linux/amd64")


@pytest.mark.parametrize(
    ("platform", "command", "said"),
    [
        (
            "linux/arm64",
            SERVER,
            "image x is for linux/arm64, and the Docker engine runs linux/amd64",
        ),
        ("linux/amd64", ("bash",), "image x is not one of spark-kit: by itself it runs bash"),
        ("linux/amd64", ("/usr/bin/python3",), "by itself it runs /usr/bin/python3"),
        ("linux/amd64", (), "by itself it runs nothing"),
    ],
)
def test_one_that_cannot(platform, command, said):
    with pytest.raises(EnvironmentNotReady, match=said):
        require_runnable(replace(SMALL, platform=platform, command=command), "x", "linux/amd64")


def test_an_image_that_is_not_there():
    with pytest.raises(EnvironmentNotReady, match="no image spark-kit:9"):
        ContainerImages(NoImages(), compose=None).require("spark-kit:9")
