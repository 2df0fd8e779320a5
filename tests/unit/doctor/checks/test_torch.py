from dataclasses import replace

import pytest

from kit.doctor.check import run
from kit.doctor.checks import torch
from kit.doctor.finding import Status
from kit.memory.unavailable import Unavailable
from tests.unit.doctor.machines import CPU_BUILD, CUDA_12, CUDA_13, GPU, WORKSTATION, serving

CARD = WORKSTATION.nvidia


def test_a_build_without_cuda_is_a_silent_fallback():
    facts = replace(WORKSTATION, torch=CPU_BUILD)
    finding = torch.build.judge(facts)
    assert finding.status is Status.WARN
    assert "would run on the CPU" in finding.summary
    local = replace(facts, serving=serving(GPU, runtime="local"))
    assert torch.build.judge(local).status is Status.FAIL
    on_cpu = replace(facts, serving=serving(None, runtime="local"))
    assert torch.build.judge(on_cpu).status is Status.SKIP


def test_no_torch():
    facts = replace(WORKSTATION, torch=Unavailable("torch is not installed"))
    (result,) = run([torch.build], facts)
    assert (result.finding.status, result.finding.summary) == ("skip", "torch is not installed")


@pytest.mark.parametrize(
    ("driver", "build", "status"),
    [
        ("580.65.06", CUDA_13, "pass"),
        ("570.124.06", CUDA_13, "fail"),
        ("570.124.06", CUDA_12, "pass"),
        ("525.60.13", CUDA_12, "pass"),
        ("515.105.01", CUDA_12, "fail"),
        ("580.65.06", CPU_BUILD, "skip"),
        ("580.65.06", replace(CUDA_13, cuda=(15, 0)), "skip"),
    ],
)
def test_driver(driver, build, status):
    facts = replace(WORKSTATION, torch=build, nvidia=replace(CARD, driver=driver))
    finding = torch.driver.judge(facts)
    assert finding.status == status
    if status == "fail":
        assert f"driver {driver} is too old for torch {build.version}" in finding.summary


@pytest.mark.parametrize(
    ("capability", "build", "status"),
    [
        ((8, 9), CUDA_13, "pass"),
        ((7, 0), CUDA_13, "fail"),  # V100 and CUDA 13
        ((7, 0), CUDA_12, "pass"),
        ((6, 1), CUDA_12, "fail"),
        ((12, 1), CUDA_13, "pass"),
    ],
)
def test_architecture(capability, build, status):
    gpu = replace(GPU, capability=capability)
    facts = replace(WORKSTATION, torch=build, nvidia=replace(CARD, gpus=(gpu,)))
    finding = torch.architecture.judge(facts)
    assert finding.status == status
    if status == "fail":
        assert finding.evidence[0].observed == " ".join(build.architectures)


def test_the_gpu_that_cuda_uses_is_judged():
    old = replace(GPU, capability=(7, 0))
    new = replace(GPU, index=1, uuid="GPU-bbbb")
    facts = replace(WORKSTATION, nvidia=replace(CARD, gpus=(old, new)))
    assert torch.architecture.judge(facts).status is Status.FAIL
    chosen = replace(facts, environ={"CUDA_VISIBLE_DEVICES": "1"})
    assert torch.architecture.judge(chosen).status is Status.PASS


@pytest.mark.parametrize(
    "facts",
    [
        replace(WORKSTATION, torch=replace(CUDA_13, architectures=Unavailable("unknown"))),
        replace(
            WORKSTATION,
            nvidia=replace(CARD, gpus=(replace(GPU, capability=Unavailable("unknown")),)),
        ),
    ],
)
def test_what_is_not_known_is_not_judged(facts):
    (result,) = run([torch.architecture], facts)
    assert (result.finding.status, result.finding.summary) == ("skip", "unknown")
