"""Which driver suits which CUDA, and which kernels run on which GPU: NVIDIA's rules."""

import re
from collections.abc import Sequence

from kit.doctor.container_facts import Version

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
