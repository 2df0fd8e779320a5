"""The GPU of this process: which one, how much of it torch may take, and what its errors mean."""

from dataclasses import dataclass

import torch

from kit.errors import EnvironmentNotReady, ServiceError, UsageError
from kit.memory.plan.native import CUDA_CONTEXT_BYTES
from kit.serve.worker import EngineDied
from kit.units import format_gib

GPU_ERRORS = (torch.OutOfMemoryError, torch.AcceleratorError)
"""What torch raises when a GPU cannot do what it was told. Not RuntimeError, its base."""


@dataclass(frozen=True)
class DeviceMemory:
    """torch's pool on one GPU: its peak, its size now, and what live tensors take of it."""

    peak_reserved_bytes: int
    reserved_bytes: int
    allocated_bytes: int


def choose_device(name: str) -> torch.device:
    """The device of that name, a GPU with its index; ``auto`` is the GPU where there is one.

    ``cuda`` without an index is the current GPU, the first one by default. The index is resolved
    here, once: some of torch's functions refuse a device that has none.

    Raises:
        EnvironmentNotReady: a GPU was asked for and torch sees none, or not that one.
        UsageError: torch knows no device of that name.
    """
    device = named_device(name)
    if device.type != "cuda":
        return device
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= (count := torch.cuda.device_count()):
        raise EnvironmentNotReady(
            f"torch sees {count} GPU{'s' * (count != 1)}, cuda:{index} is not among them",
            hint=f"--device cuda:{count - 1}, and see CUDA_VISIBLE_DEVICES",
        )
    return torch.device("cuda", index)


def named_device(name: str) -> torch.device:
    """The same as it is named, with or without an index. Does not start CUDA in this process.

    Raises:
        EnvironmentNotReady: a GPU was asked for and torch sees none.
        UsageError: torch knows no device of that name.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(
            f"{name} is no device", hint="--device cpu, cuda, or cuda:1 for the second GPU"
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise EnvironmentNotReady(
            "a GPU was asked for, but torch sees none",
            hint="check the driver with nvidia-smi, or serve on the CPU with --device cpu",
        )
    return device


def cap_vram(device: torch.device, max_vram_bytes: int | None) -> None:
    """Let torch's pool on ``device`` grow to the budget less the CUDA context, and no further.

    An allocation past it raises torch.OutOfMemoryError, however much of the card is free.

    Args:
        device: a GPU with its index, as :func:`kit.serve.gpu.choose_device` gives it.
        max_vram_bytes: the budget; None: no limit.

    Raises:
        UsageError: the budget does not even hold the CUDA context.
    """
    if device.type != "cuda" or max_vram_bytes is None:
        return
    _, total_bytes = torch.cuda.mem_get_info(device)
    fraction = pool_fraction(max_vram_bytes, total_bytes)
    torch.cuda.set_per_process_memory_fraction(fraction, device)


def pool_fraction(max_vram_bytes: int, total_bytes: int) -> float:
    """The share of a card of ``total_bytes`` that torch's pool may take under the budget.

    Raises:
        UsageError: the budget does not even hold the CUDA context.
    """
    pool_bytes = max_vram_bytes - CUDA_CONTEXT_BYTES
    if pool_bytes <= 0:
        raise UsageError(
            f"a VRAM budget of {format_gib(max_vram_bytes)} does not hold the CUDA context "
            f"({format_gib(CUDA_CONTEXT_BYTES)})",
            hint="allow more with --max-vram; kit memory plan shows what it takes",
        )
    return min(1.0, pool_bytes / total_bytes)


def device_memory(device: torch.device) -> DeviceMemory | None:
    """torch's pool on ``device``; None on the CPU."""
    if device.type != "cuda":
        return None
    return DeviceMemory(
        torch.cuda.max_memory_reserved(device),
        torch.cuda.memory_reserved(device),
        torch.cuda.memory_allocated(device),
    )


def gpu_failed(error: Exception) -> ServiceError:
    """What one of ``GPU_ERRORS`` means.

    Without memory, those who asked for it fail. Any other error leaves the process's CUDA context
    unusable, every later call fails the same way
    (https://docs.nvidia.com/cuda/cuda-runtime-api, "sticky" errors), and the engine has died.
    """
    first_line = str(error).splitlines()[0]
    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in first_line:
        return ServiceError(
            f"the GPU ran out of memory: {first_line}",
            hint="serve with a smaller --context or --max-sequences; kit memory plan shows what "
            "fits",
        )
    return EngineDied(
        f"the GPU failed: {first_line}",
        hint="nvidia-smi and dmesg | grep -i xid tell why; when the GPU answers again: kit up",
    )
