"""How torch's pools of GPU and of pinned memory round what they are asked for."""

from kit.units import MIB

_STEP_BYTES, _LARGE_STEP_BYTES = 512, 2 * MIB
_LARGE_FROM_BYTES = 10 * MIB


def rounded_bytes(size_bytes: int) -> int:
    """What a tensor of ``size_bytes`` takes: whole steps of 512 bytes, from 10 MiB of 2 MiB.

    Smaller ones share segments. Source: c10/cuda/CUDACachingAllocator.cpp of torch, ``round_size``
    and ``get_allocation_size``.
    """
    step = _LARGE_STEP_BYTES if size_bytes >= _LARGE_FROM_BYTES else _STEP_BYTES
    return -(-size_bytes // step) * step


def pinned_bytes(size_bytes: int) -> int:
    """What torch pins for a pinned tensor, and keeps: the next power of two.

    Source: aten/src/ATen/core/CachingHostAllocator.h, ``allocate``.
    """
    return 1 << max(0, size_bytes - 1).bit_length()
