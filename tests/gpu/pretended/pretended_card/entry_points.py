"""What ``torch._C`` has in a CUDA build, as functions: each checks what the C code checks."""

import os
import threading
from types import SimpleNamespace
from typing import Any

import torch

from pretended_card import group
from pretended_card.pool import FOLDER, pool
from pretended_card.tensors import (
    Factories,
    Generator,
    Moves,
    load_to_card,
    rebuild_tensor,
    require_present,
)


def install() -> None:
    """Put the card in: from now on, torch is one that was built with CUDA and has found it."""
    for name, function in _FUNCTIONS.items():
        setattr(torch._C, name, function)
    torch._C._has_cuda = True  # type: ignore[attr-defined]
    torch.version.cuda = "13.0"
    torch.cuda._cudart = _CUDART
    torch.cuda._get_device_properties = _properties  # type: ignore[attr-defined]
    torch.cuda._exchange_device = _exchange_device
    torch.cuda._maybe_exchange_device = _exchange_device
    for name, members in {"_CudaStreamBase": _Stream, "_CudaEventBase": _Event}.items():
        base = getattr(torch._C, name)  # torch's own stand-in: it cannot be made
        for member, function in vars(members).items():
            if not member.startswith("__") or member in ("__new__", "__init__"):
                setattr(base, member, function)
    torch.cuda.default_generators = (Generator("cuda"),)
    torch.Generator = Generator  # type: ignore[misc]
    torch._utils._rebuild_tensor = rebuild_tensor
    # Before torch's own, of which the CPU's has the priority 10.
    torch.serialization.register_package(5, lambda storage: None, load_to_card)
    if torch.distributed.is_available():
        group.install()
    _enter_in_every_thread()


def _enter_in_every_thread() -> None:
    """A mode is of its thread; the card is of the process."""
    run = threading.Thread.run

    def run_with_card(self: threading.Thread) -> None:
        with Moves(), Factories():
            run(self)

    threading.Thread.run = run_with_card  # type: ignore[method-assign]
    Moves().__enter__()
    Factories().__enter__()


def _index(device: Any) -> int:
    if not isinstance(device, int):
        raise TypeError(f"an integer is required (got type {type(device).__name__})")
    if device != 0:
        raise torch.AcceleratorError("CUDA error: invalid device ordinal")
    return device


def _count() -> int:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return 0 if hidden or not FOLDER.is_dir() else 1


def _init() -> None:
    require_present()
    if _count() == 0:
        raise RuntimeError("No CUDA GPUs are available")
    pool.start()


def _exchange_device(device: int) -> int:
    if device >= 0:
        _index(device)
    return 0


def _properties(device: int) -> Any:
    _index(device)
    return SimpleNamespace(
        name="Simulated GPU",
        major=9,
        minor=0,
        total_memory=pool.total,
        multi_processor_count=132,
        L2_cache_size=50 << 20,
    )


def _memory_stats(device: int) -> dict[str, Any]:
    _index(device)

    def figures(current: int, peak: int) -> dict[str, dict[str, int]]:
        return {"all": {"current": current, "peak": peak, "allocated": 0, "freed": 0}}

    return {
        "allocated_bytes": figures(pool.allocated, pool.peak_allocated),
        "reserved_bytes": figures(pool.reserved, pool.peak_reserved),
    }


def _reset_peaks(device: int) -> None:
    _index(device)
    pool.peak_allocated, pool.peak_reserved = pool.allocated, pool.reserved


def _set_fraction(fraction: float, device: int) -> None:
    _index(device)
    pool.fraction = fraction


class _Cudart:
    def cudaMemGetInfo(self, device: int) -> tuple[int, int]:  # noqa: N802  (CUDA's name)
        _index(device)
        require_present()
        return pool.free, pool.total


_CUDART = _Cudart()


class _Stream:
    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.device = torch.device("cuda:0")
        self.stream_id = self.cuda_stream = 0

    def synchronize(self) -> None:
        require_present()

    def query(self) -> bool:
        return True


class _Event:
    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def record(self, stream: Any) -> None:
        require_present()

    def wait(self, stream: Any) -> None:
        require_present()

    def synchronize(self) -> None:
        require_present()

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: Any) -> float:
        return 1.0


_FUNCTIONS: dict[str, Any] = {
    "_accelerator_getAccelerator": lambda: torch.device("cuda"),
    "_cuda_getDeviceCount": _count,
    "_cuda_init": _init,
    "_cuda_isInBadFork": lambda: False,
    "_cuda_getDevice": lambda: 0,
    "_cuda_setDevice": _index,
    "_cuda_exchangeDevice": _exchange_device,
    "_cuda_maybeExchangeDevice": _exchange_device,
    "_cuda_getCompiledVersion": lambda: 13000,
    "_cuda_getArchFlags": lambda: "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120",
    "_cuda_memoryStats": _memory_stats,
    "_cuda_resetPeakMemoryStats": _reset_peaks,
    "_cuda_resetAccumulatedMemoryStats": _index,
    "_cuda_setMemoryFraction": _set_fraction,
    "_cuda_emptyCache": lambda *mempool: pool.empty(),
    "_cuda_synchronize": lambda: require_present(),
    "_cuda_getCurrentStream": lambda device: (0, _index(device), 1),
    "_cuda_getDefaultStream": lambda device: (0, _index(device), 1),
    "_cuda_getCurrentRawStream": lambda device: 0,
    "_cuda_canDeviceAccessPeer": lambda device, peer: True,
    "_cuda_isCurrentStreamCapturing": lambda: False,
    "_cuda_clearCublasWorkspaces": lambda: None,
    "_cudart": _CUDART,
}
