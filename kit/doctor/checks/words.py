"""Phrases that several checks use."""

from collections.abc import Sequence

from kit.doctor.container_facts import Version
from kit.memory.probes.nvml import Gpu, GpuProcess
from kit.memory.unavailable import Unavailable
from kit.units import format_gib


def size(value: int | Unavailable | None) -> str:
    """A size for people; None is no limit."""
    if value is None:
        return "unlimited"
    return "unknown" if isinstance(value, Unavailable) else format_gib(value)


def cuda(version: Version | Unavailable) -> str:
    """``CUDA 12.8``."""
    return "an unknown CUDA" if isinstance(version, Unavailable) else f"CUDA {dotted(version)}"


def dotted(version: Sequence[int]) -> str:
    """``12.8`` of (12, 8)."""
    return ".".join(str(number) for number in version)


def less(remedy: str) -> str:
    """The remedy for too little memory, and the other way: to need less of it."""
    return f"{remedy}; or ask for less with --context and --max-sequences"


def many(count: int, what: str) -> str:
    """``1 GPU``, ``2 GPUs``."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def holders(gpu: Gpu) -> str:
    """Who holds the GPU's memory, the largest first."""
    if isinstance(gpu.processes, Unavailable):
        return f"programs unknown: {gpu.processes.reason}"
    return ", ".join(_holder(process) for process in gpu.processes) or "no program that NVML lists"


def _holder(process: GpuProcess) -> str:
    name = "a program" if isinstance(process.name, Unavailable) else process.name
    held = "" if isinstance(process.used_bytes, Unavailable) else f" {size(process.used_bytes)}"
    return f"{name} ({process.pid}){held}"
