"""NVIDIA's driver and its GPUs."""

from kit.doctor.facts import Facts
from kit.doctor.request import Request
from kit.memory.probes import nvml
from kit.memory.unavailable import Unavailable


def look(request: Request, facts: Facts) -> nvml.Nvidia | Unavailable:
    """What NVML tells."""
    return nvml.probe()
