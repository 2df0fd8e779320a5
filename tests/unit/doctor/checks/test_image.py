from dataclasses import replace

import pytest

from kit.doctor.check import run
from kit.doctor.checks import image
from kit.doctor.finding import Status
from kit.memory.unavailable import Unavailable
from tests.unit.doctor.machines import CUDA_12, GPU, WORKSTATION

HERE = WORKSTATION.image


def test_present():
    assert image.present.judge(WORKSTATION).summary == "spark-kit:1"


@pytest.mark.parametrize(("named", "verb"), [(False, "builds"), (True, "pulls")])
def test_absent_is_no_problem(named, verb):
    facts = replace(WORKSTATION, image=replace(HERE, present=False, named=named))
    finding = image.present.judge(facts)
    assert finding.status is Status.SKIP
    assert finding.summary == f"spark-kit:1 is not here; kit up {verb} it where it runs a container"


@pytest.mark.parametrize(
    ("changes", "status", "labels"),
    [
        ({}, "pass", []),
        ({"kit_version": "0.0.9"}, "warn", ["label version"]),
        ({"rewrites": "def"}, "warn", ["label upstream.rewrites"]),
        ({"rewrites": None}, "warn", ["label upstream.rewrites"]),
        ({"expected_rewrites": Unavailable("unknown"), "rewrites": None}, "pass", []),
        ({"kit_version": None}, "skip", []),
    ],
)
def test_version(changes, status, labels):
    finding = image.version.judge(replace(WORKSTATION, image=replace(HERE, **changes)))
    assert finding.status == status
    if status == "warn":
        assert [seen.source for seen in finding.evidence] == labels


def test_driver_and_architecture_of_the_images_torch():
    assert image.driver.judge(WORKSTATION).status is Status.PASS
    assert image.architecture.judge(WORKSTATION).status is Status.PASS
    old = replace(WORKSTATION.nvidia, driver="515.1", gpus=(replace(GPU, capability=(6, 0)),))
    facts = replace(WORKSTATION, nvidia=old, image=replace(HERE, torch=CUDA_12))
    assert image.driver.judge(facts).status is Status.FAIL
    assert image.architecture.judge(facts).status is Status.FAIL


def test_an_image_of_which_nothing_is_known():
    facts = replace(WORKSTATION, image=replace(HERE, torch=Unavailable("not the kit's")))
    found = run([image.driver, image.architecture], facts)
    assert {result.finding.summary for result in found} == {"not the kit's"}
