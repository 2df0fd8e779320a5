"""The card's memory: torch's caching allocator, roughly, and what the driver is told of it."""

import os
import threading
from pathlib import Path

import torch

from kit.units import GIB, MIB

FOLDER = Path(os.environ.get("PRETENDED_CARD", "/nonexistent"))
CONTEXT_BYTES = 560 * MIB
"""What CUDA itself takes of a card here; the plan assumes 600 MiB."""
DRIVER_BYTES = 512 * MIB


class Pool:
    """torch's caching allocator, roughly: what was freed stays reserved for the same size, and is
    given back when it is asked to, or when there is no room for more.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.fraction = 1.0
        self.allocated = self.reserved = self.peak_allocated = self.peak_reserved = 0
        self._free: dict[int, int] = {}

    @property
    def total(self) -> int:
        file = FOLDER / "gib"
        return int(float(file.read_text()) * GIB) if file.exists() else 24 * GIB

    @property
    def free(self) -> int:
        alive = (path for path in FOLDER.glob("[0-9]*") if Path("/proc", path.name).exists())
        held = sum(int(path.read_text()) for path in alive)
        return self.total - DRIVER_BYTES - held

    def start(self) -> None:
        """CUDA has started in this process: its context is on the card."""
        self.tell()

    def take(self, nbytes: int) -> int:
        """Returns what was taken: whole steps, as c10/cuda/CUDACachingAllocator.cpp rounds."""
        size = _rounded(nbytes)
        with self._lock:
            if self._free.get(size, 0):
                self._free[size] -= 1
            else:
                self.require_room(nbytes)
                self.reserved += size
                self.peak_reserved = max(self.peak_reserved, self.reserved)
                self.tell()
            self.allocated += size
            self.peak_allocated = max(self.peak_allocated, self.allocated)
        return size

    def give(self, size: int) -> None:
        with self._lock:
            self.allocated -= size
            self._free[size] = self._free.get(size, 0) + 1

    def empty(self) -> None:
        with self._lock:
            self.reserved = self.allocated
            self._free.clear()
            self.tell()

    def require_room(self, nbytes: int) -> None:
        """Return when ``nbytes`` can be had, if need be after giving back what nobody uses."""
        size = _rounded(nbytes)

        def fits() -> bool:
            return self.reserved + size <= self.fraction * self.total and size <= self.free

        with self._lock:
            if self._free.get(size, 0) or fits():
                return
            self.empty()
            if not fits():
                raise torch.OutOfMemoryError(
                    f"CUDA out of memory. Tried to allocate {size / MIB:.2f} MiB. GPU 0 has a "
                    f"total capacity of {self.total / GIB:.2f} GiB of which "
                    f"{self.free / MIB:.2f} MiB is free."
                )

    def tell(self) -> None:
        """Let the driver know."""
        path = FOLDER / f".{os.getpid()}"
        path.write_text(str(self.reserved + CONTEXT_BYTES))
        path.replace(FOLDER / str(os.getpid()))


def _rounded(nbytes: int) -> int:
    step = 512 if nbytes < 10 * MIB else 2 * MIB
    return -(-nbytes // step) * step


pool = Pool()
