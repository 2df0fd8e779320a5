from dataclasses import replace

import pytest

from kit.containers import docker as engine
from kit.doctor.facts import Docker, Facts
from kit.doctor.gather import image
from kit.doctor.gather.image import REWRITES_LABEL, VERSION_LABEL
from kit.doctor.request import Decided, Request
from kit.memory.plan.torch_build import CPU_BUILD
from kit.memory.probes.nvml import Nvidia
from kit.memory.unavailable import Unavailable
from kit.settings import Settings
from tests.unit.doctor.machines import GPU, plan

LABELS = {VERSION_LABEL: "0.1.0", REWRITES_LABEL: "abc"}
ON_GPU = Facts(docker=Docker("28"), nvidia=Nvidia("580.65.06", (13, 0), (GPU,)))


@pytest.fixture
def request_(tmp_path):
    return Request(Settings(tmp_path, tmp_path), environ={})


@pytest.fixture
def images(monkeypatch):
    """The images of an engine, by name."""
    found: dict[str, engine.Image] = {}

    class Stub:
        def __init__(self, environ):
            pass

        def image(self, name):
            return found.get(name)

    monkeypatch.setattr(image, "Engine", Stub)
    return found


def test_without_an_engine_there_is_no_image(request_):
    assert image.look(request_, Facts()) == Unavailable("it was not asked for")


def test_the_image_of_this_checkout(request_, images):
    absent = image.look(request_, ON_GPU)
    assert absent.wanted.startswith("spark-kit:")
    assert "-cuda-" in absent.wanted
    assert (absent.present, absent.torch.cuda) == (False, (12, 8))
    images[absent.wanted] = engine.Image("sha256:1", (), (), 1, LABELS)
    there = image.look(request_, ON_GPU)
    assert (there.present, there.kit_version, there.rewrites) == (True, "0.1.0", "abc")
    assert isinstance(there.expected_rewrites, str)


def test_without_a_gpu_it_is_the_one_for_the_cpu(request_, images):
    found = image.look(request_, Facts(docker=Docker("28")))
    assert "-cpu-" in found.wanted
    assert isinstance(found.torch, Unavailable)


def test_what_has_been_decided_comes_first(request_, images):
    decided = Decided("demo", plan(None), CPU_BUILD, (), "container")
    asked = replace(request_, decided=decided)
    assert "-cpu-" in image.look(asked, ON_GPU).wanted
    named = replace(asked, environ={"KIT_IMAGE": "spark-kit:0.1.0-cuda-0123456789ab"})
    assert image.look(named, ON_GPU).torch.cuda == (12, 8)


def test_an_image_that_is_named(request_, images):
    images["registry.example/own:1"] = engine.Image("sha256:1", (), (), 1, {})
    named = replace(request_, environ={"KIT_IMAGE": "registry.example/own:1"})
    found = image.look(named, ON_GPU)
    assert (found.wanted, found.present, found.kit_version) == (
        "registry.example/own:1",
        True,
        None,
    )
    assert isinstance(found.torch, Unavailable)
