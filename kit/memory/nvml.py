"""NVIDIA GPUs as the driver's management library (NVML) reports them."""

import importlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from kit.memory.unavailable import Unavailable

T = TypeVar("T")


@dataclass(frozen=True)
class Gpu:
    """One GPU. ``used_bytes`` counts every process on it and the driver's own share."""

    index: int
    uuid: str
    name: str
    total_bytes: int
    used_bytes: int
    driver: str

    @property
    def free_bytes(self) -> int:
        """What a process can still allocate."""
        return self.total_bytes - self.used_bytes


def gpus() -> tuple[Gpu, ...] | Unavailable:
    """All GPUs of the machine; unavailable when no NVIDIA driver answers."""
    return _session(lambda nvml: tuple(_gpu(nvml, i) for i in range(nvml.nvmlDeviceGetCount())))


def visible(found: tuple[Gpu, ...], environ: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Those of ``found`` that CUDA may use, in its order, as ``CUDA_VISIBLE_DEVICES`` says.

    As in CUDA, entries are indices or the beginnings of UUIDs, and the first unknown one ends the
    list.
    """
    names = environ.get("CUDA_VISIBLE_DEVICES")
    if names is None:
        return found
    chosen: list[Gpu] = []
    for name in (part.strip() for part in names.split(",")):
        match = [g for g in found if name and (str(g.index) == name or g.uuid.startswith(name))]
        if not match:
            break
        chosen.append(match[0])
    return tuple(chosen)


def processes_bytes(pids: Collection[int]) -> int | Unavailable:
    """Device memory that the processes ``pids`` hold now, over all GPUs, CUDA context included.

    Unavailable when NVML lists none of them, as it does across a container's border.
    """

    def measure(nvml: Any) -> int | Unavailable:
        held: list[int | None] = []
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            held += [process.usedGpuMemory for process in running if process.pid in pids]
        if not held:
            return Unavailable("NVML lists no process of the service")
        if None in held:
            return Unavailable("NVML does not tell the memory of single processes here")
        return sum(size for size in held if size is not None)

    return _session(measure)


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        index=index,
        uuid=str(nvml.nvmlDeviceGetUUID(handle)),
        name=str(nvml.nvmlDeviceGetName(handle)),
        total_bytes=int(memory.total),
        used_bytes=int(memory.used),
        driver=str(nvml.nvmlSystemGetDriverVersion()),
    )


def _session(use: Callable[[Any], T]) -> T | Unavailable:
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return Unavailable("the Python package nvidia-ml-py is not installed")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return Unavailable(f"no NVIDIA driver answers ({error})")
    try:
        return use(nvml)
    except nvml.NVMLError as error:
        return Unavailable(f"NVML failed ({error})")
    finally:
        nvml.nvmlShutdown()
