"""The VRAM that a service took at its peak, from what the driver and torch tell.

The driver knows the CUDA context, torch knows its own pool only; but the driver names no processes
across a container's border and under WSL2. Then what the GPU holds more than before the service was
started is its VRAM, and where nobody looked before, the proof cannot be had.
"""

from kit.memory.budget import MeasuredBy
from kit.memory.plan.native import CUDA_CONTEXT_BYTES
from kit.memory.unavailable import Unavailable

Peak = tuple[int | Unavailable, MeasuredBy | None]
"""Bytes, and how they are known."""


def proven_peak(
    held_bytes: int | Unavailable, sampled_bytes: int | None, pool_bytes: int | None
) -> Peak:
    """The peak as the driver has measured it; unavailable where it has not.

    Args:
        held_bytes: what the driver counts for the service's processes now.
        sampled_bytes: the most of the samples taken meanwhile, which are of its processes, or of
            what the GPU held more than before; None: there are none.
        pool_bytes: peak of torch's pool. It may raise the figure: samples can miss a moment, and
            others can have freed what the GPU held before.
    """
    if isinstance(held_bytes, int):
        return max(held_bytes, sampled_bytes or 0, pool_bytes or 0), "driver-by-process"
    if sampled_bytes is None:
        return _unproven(held_bytes), None
    at_least = 0 if pool_bytes is None else pool_bytes + CUDA_CONTEXT_BYTES
    return max(sampled_bytes, at_least), "driver-by-samples"


def estimated_peak(held_bytes: int | Unavailable, pool_bytes: int | None) -> Peak:
    """The peak of a service that has been proven before, to find out early that it has grown.

    Where the driver tells nothing, torch's pool and the CUDA context that is assumed.
    """
    if isinstance(held_bytes, int):
        return max(held_bytes, pool_bytes or 0), "driver-by-process"
    if pool_bytes is None:
        return held_bytes, None
    return pool_bytes + CUDA_CONTEXT_BYTES, "torch"


def _unproven(held: Unavailable) -> Unavailable:
    return Unavailable(f"{held.reason}, and the GPU was not looked at before it started")
