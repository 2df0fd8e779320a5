"""Which build of torch this machine's driver and GPU can run; `make` asks before it installs one.

Usage: python -m kit.doctor.choose_torch REQUIREMENTS
"""

import os
import re
import sys
from pathlib import Path

from kit.doctor.checks.torch import driver_floor, is_older, runs_on
from kit.doctor.gather.torch import published
from kit.errors import EnvironmentNotReady
from kit.memory.probes import nvml
from kit.memory.unavailable import Unavailable

BUILDS = {"cuda": (13, 0), "cuda12": (12, 8)}
"""The files requirements/torch-NAME.txt, the newest CUDA first, and the CUDA of each."""
_PINNED = re.compile(r"^torch==(\S+)", re.MULTILINE)


def choose(requirements: Path) -> str:
    """The first of ``BUILDS`` that the driver and the GPU can run.

    Where the driver does not tell, the newest: torch then says itself what is wrong.

    Raises:
        EnvironmentNotReady: none runs here.
    """
    nvidia = nvml.probe()
    if isinstance(nvidia, Unavailable):
        return next(iter(BUILDS))
    reasons = []
    for name, cuda in BUILDS.items():
        version = _PINNED.search((requirements / f"torch-{name}.txt").read_text(encoding="utf-8"))
        reason = _unfit(nvidia, version[1] if version else "unknown", cuda)
        if reason is None:
            return name
        reasons.append(reason)
    raise EnvironmentNotReady(
        f"no build of torch runs here: {'; '.join(reasons)}",
        hint="install a newer driver; or make clean setup TORCH=cpu, and serve on the CPU",
    )


def _unfit(nvidia: nvml.Nvidia, version: str, cuda: tuple[int, int]) -> str | None:
    """Why a build does not run here; None: it does, as far as is known."""
    floor = driver_floor(cuda)
    if floor is not None and is_older(nvidia.driver, floor):
        return f"torch {version} needs driver {floor}, here is {nvidia.driver}"
    architectures, _ = published(version)
    used = next(iter(nvml.visible(nvidia.gpus, os.environ)), None)
    if used is None or isinstance(used.capability, Unavailable):
        return None
    if isinstance(architectures, Unavailable) or runs_on(used.capability, architectures):
        return None
    number = ".".join(map(str, used.capability))
    return f"torch {version} has no kernels for {used.name} (compute capability {number})"


if __name__ == "__main__":
    try:
        print(choose(Path(sys.argv[1])))
    except EnvironmentNotReady as error:
        sys.exit(f"error: {error.message}\nhint: {error.hint}")
