"""How torch's pool of GPU memory rounds what it is asked for."""

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
