"""A GPU that is not there, for ``torch.cuda``: it has room, and says what the ledger has counted.

The functions of ``torch.cuda`` that torch's fake mode does not reach are answered here. Nothing is
computed by them; streams and events are always done.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Self

import torch

from kit.proof.simulate.ledger import Ledger
from kit.units import GIB

TOTAL_BYTES = 1024 * GIB
"""Room for upstream's longest prompts; the ledger tells what a path needs, not what a card has."""


class _Stream:
    """Everything that was asked of it is done."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def record(self, *_: object) -> None:
        """Done."""

    def wait(self, *_: object) -> None:
        """Done."""

    wait_event = wait_stream = record_event = wait

    def query(self) -> bool:
        """Done."""
        return True

    def synchronize(self) -> None:
        """Done."""


class _Generator:
    """Random numbers that nobody draws."""

    def manual_seed(self, seed: int) -> Self:
        """Nothing to seed."""
        return self

    def get_state(self) -> torch.Tensor:
        """As large as CUDA's."""
        return torch.zeros(16, dtype=torch.uint8)

    def set_state(self, state: torch.Tensor) -> None:
        """Nothing to set."""


@contextmanager
def pretended_card(ledger: Ledger, total_bytes: int = TOTAL_BYTES) -> Iterator[None]:
    """``torch.cuda`` has one GPU of ``total_bytes``, whose pool is the ledger's."""
    stand_ins = _answers(ledger, total_bytes)
    before = {name: getattr(torch.cuda, name) for name in stand_ins}
    generator = torch.Generator
    for name, stand_in in stand_ins.items():
        setattr(torch.cuda, name, stand_in)
    torch.Generator = lambda device="cpu": generator("cpu")  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        torch.Generator = generator  # type: ignore[misc]
        for name, known in before.items():
            setattr(torch.cuda, name, known)


def _answers(ledger: Ledger, total_bytes: int) -> dict[str, Any]:
    pool = ledger.allocator

    def set_fraction(fraction: float, device: object = None) -> None:
        pool.limit_bytes = int(fraction * total_bytes)

    def nothing(*_: object, **__: object) -> None: ...

    def stream(*_: object, **__: object) -> _Stream:
        return _Stream()

    properties = SimpleNamespace(
        name="simulated", total_memory=total_bytes, major=8, minor=0, multi_processor_count=108
    )
    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": nothing,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": nothing,
        "synchronize": nothing,
        "is_bf16_supported": lambda *_, **__: True,
        "get_device_capability": lambda *_: (properties.major, properties.minor),
        "get_device_name": lambda *_: properties.name,
        "get_device_properties": lambda *_: properties,
        "manual_seed": nothing,
        "manual_seed_all": nothing,
        "initial_seed": lambda: 0,
        "get_rng_state": lambda *_: _Generator().get_state(),
        "set_rng_state": nothing,
        "default_generators": (_Generator(),),
        "Stream": _Stream,
        "Event": _Stream,
        "stream": stream,
        "current_stream": stream,
        "default_stream": stream,
        "mem_get_info": lambda *_: (total_bytes - pool.reserved_bytes, total_bytes),
        "set_per_process_memory_fraction": set_fraction,
        "memory_allocated": lambda *_: pool.allocated_bytes,
        "max_memory_allocated": lambda *_: ledger.peak_allocated_bytes,
        "memory_reserved": lambda *_: pool.reserved_bytes,
        "max_memory_reserved": lambda *_: ledger.peak_reserved_bytes,
        "reset_peak_memory_stats": lambda *_: ledger.reset_peaks(),
        "empty_cache": ledger.empty_cache,
    }
