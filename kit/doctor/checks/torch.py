"""Area ``torch``: whether the installed build of torch can use the GPU that is here."""

from kit.doctor.check import check, known
from kit.doctor.checks.cuda import judge_architecture, judge_driver
from kit.doctor.checks.words import cuda
from kit.doctor.facts import Facts
from kit.doctor.finding import Evidence, Finding, failure, passed, skipped, warning
from kit.memory.unavailable import Unavailable


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
