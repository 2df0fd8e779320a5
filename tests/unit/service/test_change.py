from dataclasses import replace
from pathlib import Path

import pytest

from kit.memory.budget import default_ram_budget
from kit.memory.plan.line import Pool
from kit.memory.plan.shape import ModelShape
from kit.memory.plan.torch_build import CPU_BUILD, CUDA_BUILD
from kit.proof.assertion import Proof
from kit.runtime.protocol import ImageRef, ServeSpec
from kit.service.change import Wishes, options_after
from kit.service.intent import Intent
from kit.service.model import model_at
from kit.settings import Settings
from kit.units import GIB

SHAPE = ModelShape(2, 64, 128, 100, 256, 128, 2, 10 * GIB)
SPEC = ServeSpec(
    Path("/models/spark"), "mine", "10.0.0.5", 9000, 128, 3, "cpu", max_vram_bytes=None
)
SETTINGS = Settings(Path("/data"), Path("/state"))


def old(**changes):
    spec = replace(SPEC, **changes)
    intent = Intent(SETTINGS, "container", model_at(spec.model_dir), SHAPE, spec, CPU_BUILD, ())
    return intent if spec.max_ram_bytes else intent.with_budget()


def test_what_is_not_named_stays():
    options = options_after(Wishes(), old())
    assert (options.model, options.name) == ("/models/spark", "mine")
    assert (options.context, options.max_sequences, options.device) == (128, 3, "cpu")
    assert (options.settings.host, options.settings.port) == ("10.0.0.5", 9000)
    assert (options.runtime, options.engine) == ("container", "native")


def test_the_new_service_proves_itself_as_is_asked():
    assert options_after(Wishes(), old()).proof == Proof()
    proof = Proof(exercise=False)
    assert options_after(Wishes(proof=proof), old()).proof == proof


def test_another_model_has_its_own_name_and_limits():
    options = options_after(Wishes(model="/models/other"), old())
    assert (options.model, options.name) == ("/models/other", None)
    assert (options.context, options.max_sequences) == (None, None)


def test_a_budget_that_was_asked_for_stays_one_by_the_plan_follows_it():
    by_plan = old()
    assert by_plan.spec.max_ram_bytes == default_ram_budget(by_plan.plan.peak_bytes(Pool.HOST))
    assert options_after(Wishes(), by_plan).settings.max_ram_bytes is None
    assert options_after(Wishes(), old(max_ram_bytes=GIB)).settings.max_ram_bytes == GIB
    wishes = Wishes(max_ram_bytes=2 * GIB)
    assert options_after(wishes, old(max_ram_bytes=GIB)).settings.max_ram_bytes == 2 * GIB


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("build", [CPU_BUILD, CUDA_BUILD])
def test_a_budget_by_the_plan_is_known_though_the_image_is_gone(device, build):
    made = replace(old(device=device), build=build).with_budget()
    forgotten = replace(made, build=CUDA_BUILD)
    assert options_after(Wishes(), forgotten).settings.max_ram_bytes is None


def test_the_demo_stays_the_demo_of_this_version():
    demo = old(model_dir=Path("/data/demo-0123456789ab-bf16"))
    assert options_after(Wishes(), demo).model == "demo"


def test_a_built_image_is_built_again_a_named_one_stays():
    built = old(image=ImageRef("spark-kit:0.1.0-cpu-0123456789ab", "sha256:1"))
    assert options_after(Wishes(), built).image is None
    named = old(image=ImageRef("registry.example/spark-kit:1", "sha256:1"))
    assert options_after(Wishes(), named).image == "registry.example/spark-kit:1"
    assert options_after(Wishes(image="new:1"), named).image == "new:1"
