from dataclasses import replace

import pytest

from kit.doctor.check import run
from kit.doctor.checks import gpu
from kit.doctor.finding import Status
from kit.doctor.registry import CHECKS
from kit.memory.probes.nvml import GpuProcess, NoDriver, Nvidia
from kit.memory.room import Room
from kit.memory.unavailable import Unavailable
from kit.units import GIB
from tests.unit.doctor.machines import GPU, LAPTOP, TENANTS, WORKSTATION, on, serving

CARD = "0000:01:00.0"
NO_LIBRARY = LAPTOP.nvidia
DRIVER = WORKSTATION.nvidia


def silent(cause: str, **machine):
    nvidia = NoDriver(f"no NVIDIA driver answers ({cause})", cause)
    return replace(LAPTOP, nvidia=nvidia, machine=replace(LAPTOP.machine, **machine))


@pytest.mark.parametrize(
    ("facts", "status", "summary", "remedy"),
    [
        (LAPTOP, "warn", "models run on the CPU", "the demo needs none"),
        (silent("library", wsl=2), "warn", "models run on the CPU", "in Windows, not in WSL"),
        (silent("library", nvidia_cards=(CARD,)), "fail", "no driver that answers", "install"),
        (silent("not loaded", nvidia_cards=(CARD,), nouveau=True), "fail", "nouveau", "blacklists"),
        (
            silent("library", nvidia_cards=(CARD,), container="docker"),
            "fail",
            "container",
            "--gpus",
        ),
        (silent("mismatch", nvidia_module="570.1"), "fail", "cannot be used", "upgraded"),
        (silent("lost"), "fail", "cannot be used", "Xid"),
        (silent("no permission"), "fail", "cannot be used", "/dev/nvidia*"),
        (silent("bindings"), "fail", "cannot be used", "pip install nvidia-ml-py"),
        (silent("failed", nvidia_module="580.1"), "fail", "no driver that answers", "install"),
    ],
)
def test_a_driver_that_does_not_answer(facts, status, summary, remedy):
    finding = gpu.driver.judge(facts)
    assert finding.status == status
    assert summary in finding.summary
    assert remedy in finding.remedy
    assert finding.evidence[0].observed == facts.nvidia.reason


def test_evidence_names_card_and_module():
    facts = silent("mismatch", nvidia_cards=(CARD,), nvidia_module="570.124.06")
    seen = [each.observed for each in gpu.driver.judge(facts).evidence]
    assert seen[1:] == [f"NVIDIA at {CARD}", "module 570.124.06"]


def test_the_driver_is_judged_where_the_machine_is_unknown():
    facts = replace(LAPTOP, machine=Unavailable("no /proc"))
    assert gpu.driver.judge(facts).status is Status.WARN


def test_a_driver_that_answers():
    assert gpu.driver.judge(WORKSTATION).summary == "driver 580.65.06, CUDA 13.0: 1 GPU (Stub 48)"
    two = replace(DRIVER, gpus=(GPU, replace(GPU, name="Other")), cuda=Unavailable("silent"))
    summary = gpu.driver.judge(replace(WORKSTATION, nvidia=two)).summary
    assert summary == "driver 580.65.06, an unknown CUDA: 2 GPUs (Stub 48, Other)"


def test_a_driver_without_a_gpu():
    finding = gpu.driver.judge(replace(WORKSTATION, nvidia=replace(DRIVER, gpus=())))
    assert (finding.status, finding.summary) == ("fail", "driver 580.65.06 has no GPU")


@pytest.mark.parametrize("hidden", ["", "-1", "7", "GPU-nonsense"])
def test_hidden_gpus_are_a_silent_fallback(hidden):
    facts = replace(WORKSTATION, environ={"CUDA_VISIBLE_DEVICES": hidden})
    finding = gpu.may_be_used.judge(facts)
    assert finding.status is Status.WARN
    assert finding.evidence[0].observed == repr(hidden)
    assert "GPU-aaaa" in finding.evidence[0].expected


def test_visible():
    assert gpu.may_be_used.judge(WORKSTATION).summary == "CUDA uses Stub 48 (GPU-aaaa)"


def test_mig_mode_needs_an_instance():
    cut = replace(GPU, instances=())
    finding = gpu.may_be_used.judge(on(WORKSTATION, replace(DRIVER, gpus=(cut,)), None))
    assert (finding.status, "MIG" in finding.summary) == ("fail", True)
    instance = replace(GPU, uuid="MIG-cccc", name="Stub 48 MIG 1g")
    whole = replace(DRIVER, gpus=(replace(GPU, instances=(instance,)),))
    finding = gpu.may_be_used.judge(on(WORKSTATION, whole, instance))
    assert finding.summary == "CUDA uses Stub 48 MIG 1g (MIG-cccc)"


def test_enough_memory():
    finding = gpu.memory.judge(WORKSTATION)
    assert finding.status is Status.PASS
    assert finding.summary.startswith("47.50 GiB of 48.00 GiB free on Stub 48, 29.00 GiB planned")


def test_who_holds_the_memory_is_named():
    full = replace(GPU, used_bytes=20 * GIB, processes=TENANTS)
    finding = gpu.memory.judge(on(WORKSTATION, replace(DRIVER, gpus=(full,)), full))
    assert finding.status is Status.FAIL
    assert finding.summary == "not enough free VRAM on Stub 48: 29.00 GiB needed, 28.00 GiB there"
    assert finding.evidence[1].observed == "ollama (4712) 17.50 GiB, python3 (4711) 3.00 GiB"
    assert "nvidia-smi" in finding.remedy
    assert "--context" in finding.remedy


def test_tenants_beside_which_there_is_room_are_shown_too():
    shared = replace(GPU, processes=TENANTS[1:])
    finding = gpu.memory.judge(on(WORKSTATION, replace(DRIVER, gpus=(shared,)), shared))
    assert finding.status is Status.PASS
    assert finding.summary.endswith("; the rest: python3 (4711) 3.00 GiB")


@pytest.mark.parametrize(
    ("processes", "words"),
    [
        (Unavailable("hidden"), "programs unknown: hidden"),
        ((), "no program that NVML lists"),
        ((GpuProcess(7, Unavailable("x"), Unavailable("y")),), "a program (7)"),
    ],
)
def test_holders_as_far_as_they_are_known(processes, words):
    full = replace(GPU, used_bytes=40 * GIB, processes=processes)
    finding = gpu.memory.judge(on(WORKSTATION, replace(DRIVER, gpus=(full,)), full))
    assert finding.evidence[1].observed == words


def test_a_card_that_is_too_small():
    small = replace(GPU, total_bytes=24 * GIB)
    finding = gpu.memory.judge(on(WORKSTATION, replace(DRIVER, gpus=(small,)), small))
    assert "--precision int8" in finding.remedy


def test_another_card_that_suffices_is_named():
    small, large = replace(GPU, total_bytes=12 * GIB), replace(GPU, index=1, name="Stub 48")
    finding = gpu.memory.judge(on(WORKSTATION, replace(DRIVER, gpus=(small, large)), small))
    assert finding.remedy.startswith("use Stub 48, which has 47.50 GiB free: KIT_GPU=1")


def test_a_lost_card_is_a_warning_and_hides_nothing_of_those_that_work():
    facts = replace(WORKSTATION, nvidia=replace(DRIVER, lost=("GPU 1: Unknown Error",)))
    found = {result.check.id: result for result in run(CHECKS, facts)}
    finding = found["gpu.lost"].finding
    assert (finding.status, finding.summary) == ("warn", "1 GPU cannot be used, 1 can")
    assert "Xid" in finding.remedy
    whole = {result.check.id: result for result in run(CHECKS, WORKSTATION)}
    assert found.keys() == whole.keys()
    assert {name for name, each in found.items() if each != whole[name]} == {"gpu.lost"}


def test_unknown_memory_is_a_warning():
    silent_gpu = replace(GPU, total_bytes=Unavailable("not told"), used_bytes=Unavailable("no"))
    nvidia = Nvidia("580.65.06", (13, 0), (silent_gpu,))
    finding = gpu.memory.judge(on(WORKSTATION, nvidia, silent_gpu))
    assert (finding.status, finding.summary) == ("warn", "free VRAM on Stub 48 is unknown")


@pytest.mark.parametrize("free", [Unavailable("silent"), GIB])
def test_each_of_several_cards_has_to_have_room_for_its_rank(free):
    second = replace(GPU, index=1, uuid="GPU-bbbb", processes=TENANTS)
    enough = Room("free VRAM on Stub 48 (GPU 0)", 40 * GIB, 15 * GIB, "end them", "vram")
    facts = replace(
        WORKSTATION,
        nvidia=replace(DRIVER, gpus=(GPU, second)),
        serving=replace(serving(GPU), gpus=(GPU, second), rooms=(enough, enough)),
    )
    assert gpu.memory.judge(facts).summary == "15.00 GiB planned for each of 2 GPUs, and free"
    short = replace(enough, what="free VRAM on Stub 48 (GPU 1)", free_bytes=free)
    facts = replace(facts, serving=replace(facts.serving, rooms=(enough, short)))
    finding = gpu.memory.judge(facts)
    if isinstance(free, Unavailable):
        assert finding.status is Status.WARN
    else:
        assert finding.summary.startswith("not enough free VRAM on Stub 48 (GPU 1)")
        assert "ollama" in finding.evidence[1].observed
        assert "KIT_GPU" not in finding.remedy  # no one card takes them all


def test_on_the_cpu_no_vram_is_needed():
    facts = replace(WORKSTATION, serving=serving(None))
    assert gpu.memory.judge(facts).status is Status.SKIP


def test_processes_are_those_of_the_newest_look():
    """What is about to start may know its GPU from an older look."""
    now = replace(GPU, processes=TENANTS)
    room = Room("free VRAM", GIB, 29 * GIB, "end them", "vram")
    facts = replace(
        WORKSTATION,
        nvidia=replace(DRIVER, gpus=(now,)),
        serving=replace(serving(GPU), rooms=(room,)),
    )
    assert "ollama" in gpu.memory.judge(facts).evidence[1].observed
