"""A build of torch against driver and GPU: the same for what is installed and for the image."""

from collections.abc import Mapping

from kit.doctor.check import known
from kit.doctor.checks.words import cuda, dotted
from kit.doctor.compatibility import driver_floor, is_older, runs_on
from kit.doctor.container_facts import Torch
from kit.doctor.finding import Evidence, Finding, failure, passed, skipped
from kit.memory.probes.nvml import Nvidia, visible


def judge_driver(torch: Torch, nvidia: Nvidia) -> Finding:
    """Whether programs built with torch's CUDA run on the driver."""
    if torch.cuda is None:
        return skipped(f"torch {torch.version} is built without CUDA")
    floor = driver_floor(torch.cuda)
    if floor is None:
        return skipped(f"the oldest driver for {cuda(torch.cuda)} is not known")
    built = f"torch {torch.version} ({cuda(torch.cuda)})"
    seen = Evidence("NVML", f"driver {nvidia.driver}", f"{floor} or later for {built}")
    if is_older(nvidia.driver, floor):
        remedy = f"install driver {floor} or later and reboot"
        if torch.cuda[0] > 12:
            remedy += "; or use torch 2.10, the last for CUDA 12, which runs from driver "
            remedy += f"{driver_floor((12, 0))}: the kit's image has it"
        return failure(f"driver {nvidia.driver} is too old for {built}", seen, remedy=remedy)
    return passed(f"driver {nvidia.driver} suits {built}", seen)


def judge_architecture(torch: Torch, nvidia: Nvidia, environ: Mapping[str, str]) -> Finding:
    """Whether torch has kernels for the GPU that CUDA would use."""
    built_for = known(torch.architectures)
    used = next(iter(visible(nvidia.gpus, environ)), None)
    if used is None:
        return skipped("CUDA uses no GPU")
    capability = known(used.capability)
    name = f"{used.name} (compute capability {dotted(capability)})"
    fitting = runs_on(capability, built_for)
    seen = Evidence(torch.source, " ".join(built_for), f"one that runs on {dotted(capability)}")
    if fitting is None:
        return failure(
            f"torch {torch.version} has no kernels for {name}",
            seen,
            remedy="use a torch whose list covers it: 2.10 for CUDA 12, which the kit's image has, "
            "is the last with sm_70 (V100); a newer card needs a newer torch",
        )
    return passed(f"{fitting} runs on {name}", seen)
