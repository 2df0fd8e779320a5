"""The VRAM budget as a cap inside the process: what passes it fails here, not in a neighbour."""

import torch

from kit.errors import UsageError
from kit.memory.plan import CUDA_CONTEXT_BYTES
from kit.units import format_gib


def cap_vram(device: torch.device, max_vram_bytes: int | None) -> None:
    """Let torch's pool on ``device`` grow to the budget less the CUDA context, and no further.

    An allocation past it raises torch.OutOfMemoryError, however much of the card is free.

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
