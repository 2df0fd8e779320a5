"""Area ``torch``: whether the installed build of torch can use the GPU that is here."""

import re
from collections.abc import Mapping, Sequence

from kit.doctor.check import check, known
from kit.doctor.facts import Facts, Torch, Version
from kit.doctor.finding import Evidence, Finding, cuda, dotted, failure, passed, skipped, warning
from kit.memory.probes.nvml import Nvidia, visible
from kit.memory.unavailable import Unavailable

DRIVER_FLOORS: dict[int, str] = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
"""The oldest driver on which programs built with any release of that CUDA run ("minor version
compatibility", https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html;
exact versions for Linux by the CUDA Toolkit's release notes)."""

_ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")


def driver_floor(cuda: Version) -> str | None:
    """The oldest driver for programs built with ``cuda``; None: it is not known."""
    return DRIVER_FLOORS.get(cuda[0])


def is_older(driver: str, floor: str) -> bool:
    """Whether version ``driver`` comes before ``floor``."""
    return _numbers(driver) < _numbers(floor)


def runs_on(capability: Version, architectures: Sequence[str]) -> str | None:
    """The architecture of a build that a GPU of that compute capability can run; None: none.

    Binary code (``sm_XY``) runs on its own major version from its minor version upwards; PTX
    (``compute_XY``) is compiled by the driver for any later one; what ends in ``a`` or ``f`` is
    for one GPU alone, or one family (CUDA C++ Programming Guide, "Application Compatibility").
    """
    fitting = [name for name in architectures if _fits(name, capability)]
    return max(fitting, key=_rank, default=None)


def _fits(name: str, capability: Version) -> bool:
    found = _ARCHITECTURE.fullmatch(name)
    if found is None:
        return False
    built_for = int(found[2]), int(found[3])
    if found[4]:
        return built_for == capability
    if found[1] == "compute":
        return built_for <= capability
    return built_for[0] == capability[0] and built_for[1] <= capability[1]


def _rank(name: str) -> tuple[bool, int]:
    """Binary code before PTX, the newest first."""
    return name.startswith("sm_"), int(re.sub(r"\D", "", name))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


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


@check(
    "torch.build",
    "torch is a build with CUDA, where there is a GPU",
    reads=["torch", "serving"],
    requires=["gpu.visible"],
)
def build(facts: Facts) -> Finding:
    """A build without CUDA falls back to the CPU, and says nothing."""
    torch = known(facts.torch)
    if torch.cuda is not None:
        return passed(f"torch {torch.version}, built for {cuda(torch.cuda)}")
    decided = None if isinstance(facts.serving, Unavailable) else facts.serving.runtime
    if decided == "local" and known(facts.serving).plan.device == "cpu":
        return skipped("it is to be served on the CPU")
    say = failure if decided == "local" else warning
    return say(
        f"torch {torch.version} cannot use the GPU: a local server would run on the CPU",
        Evidence(torch.source, "a build without CUDA", "a build with CUDA"),
        remedy="install the CUDA build: make clean setup TORCH=cuda; or let kit up run a container",
    )


@check(
    "torch.driver",
    "the driver is new enough for torch's CUDA",
    reads=["torch", "nvidia"],
    requires=["torch.build"],
)
def driver(facts: Facts) -> Finding:
    """By NVIDIA's minor version compatibility."""
    return judge_driver(known(facts.torch), known(facts.nvidia))


@check(
    "torch.architecture",
    "torch has kernels for the GPU's architecture",
    reads=["torch", "nvidia", "environ"],
    requires=["torch.build"],
)
def architecture(facts: Facts) -> Finding:
    """Compute capability against the build's list."""
    return judge_architecture(known(facts.torch), known(facts.nvidia), facts.environ)
