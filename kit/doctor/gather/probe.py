"""Whether containers see the GPUs: found out by starting one.

The one place where the doctor runs a container: from an image that is here already, removed when
it ends, without a network. Its entry point is nvidia-smi, which the NVIDIA Container Toolkit brings
in from the host; any image with glibc can run it.
"""

import os
import re
import shlex
from collections.abc import Mapping, Sequence

from kit.doctor.facts import Docker, Facts, ProbeRun
from kit.doctor.gather.commands import Ran, ran
from kit.doctor.request import Request
from kit.memory.probes.nvml import Nvidia
from kit.memory.unavailable import Unavailable

# A container starts in seconds; the first one on a cold disk may take a minute.
SECONDS = 60.0
_BESIDE_SECONDS = 10.0
"""For the commands around it."""
_PREFERRED = (
    "spark-kit:", "nvidia/cuda:", "pytorch/pytorch:", "vllm/vllm-openai:", "ubuntu:", "debian:",
    "python:",
)  # fmt: skip
_UUID = re.compile(r"^(?:GPU|MIG)-\S+$", re.MULTILINE)


def look(request: Request, facts: Facts) -> ProbeRun | Unavailable:
    """Start a container where there are an engine and a GPU, and one is wanted."""
    if request.decided is not None and request.decided.plan.device == "cpu":
        return Unavailable("it is to be served on the CPU")
    if not isinstance(facts.docker, Docker):
        return facts.docker
    if not isinstance(facts.nvidia, Nvidia) or not facts.nvidia.gpus:
        return Unavailable("there is no GPU to look for")
    return run(request.environ)


def run(environ: Mapping[str, str]) -> ProbeRun:
    """Run nvidia-smi in a container that asks for all GPUs."""
    image = choose(_images(environ), environ.get("KIT_IMAGE"))
    command = probe_command(image or "IMAGE")
    if image is None:
        return ProbeRun(None, shlex.join(command), 0, (), "")
    done = _run(command, environ)
    error = "\n".join(line for line in (done.error or done.out).splitlines() if line.strip())
    found = tuple(_UUID.findall(done.out))
    return ProbeRun(image, shlex.join(command), done.exit_code, found, error)


def _run(command: Sequence[str], environ: Mapping[str, str]) -> Ran:
    """Run it under a name by which it can be removed, should it not end in time."""
    name = f"kit-doctor-{os.getpid()}"
    try:
        done = ran([*command[:2], "--name", name, *command[2:]], SECONDS, environ)
    except TimeoutError:
        ran(["docker", "rm", "--force", name], _BESIDE_SECONDS, environ)
        raise
    if done is None:
        raise FileNotFoundError("the docker command is not installed")
    return done


def probe_command(image: str) -> tuple[str, ...]:
    """The command: as Compose asks for GPUs, so does ``--gpus``."""
    return (
        "docker", "run", "--rm", "--pull", "never", "--network", "none", "--gpus", "all",
        "--env", "NVIDIA_DRIVER_CAPABILITIES=compute,utility", "--entrypoint", "nvidia-smi",
        image, "--query-gpu=uuid", "--format=csv,noheader",
    )  # fmt: skip


def choose(images: Sequence[str], wanted: str | None = None) -> str | None:
    """The image ``wanted``, else the one that suits best; None: none of these is known to suit.

    Names are such as ``debian:12``. Alpine's have no glibc.
    """
    if wanted in images:
        return wanted
    usable = [image for image in images if "alpine" not in image and "<none>" not in image]
    ranked = (image for start in _PREFERRED for image in usable if image.startswith(start))
    return next(ranked, None)


def _images(environ: Mapping[str, str]) -> tuple[str, ...]:
    command = ["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]
    done = ran(command, _BESIDE_SECONDS, environ)
    return tuple(done.out.split()) if done is not None else ()
