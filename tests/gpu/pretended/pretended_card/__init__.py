"""A pretended GPU, for a torch that is built without CUDA.

Everything of torch that is written in Python is the real one, and so are its argument checks: what
is replaced lies below, the functions of ``torch._C`` that a CUDA build has. A tensor "on the card"
is a wrapper around one in this process's memory; it is of no device but its own, so that tensors
of both in one operation fail as they would in truth, and every byte counts in a model of torch's
caching allocator.

The environment variable PRETENDED_CARD names a folder that the driver's stub (nvml_stub.c, scenario
"pretended") reads as well:
    gib         a file with the card's size; missing: 24
    PID         what a process holds of the card, in bytes; written here
    lost        once it is there, the card has fallen off the bus
"""

from pretended_card.entry_points import install

__all__ = ["install"]
