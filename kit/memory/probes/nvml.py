"""NVIDIA GPUs as the driver's management library (NVML) reports them.

Through the bindings of nvidia-ml-py (https://docs.nvidia.com/deploy/nvml-api). A value that the
driver or the card does not tell is Unavailable, one by one: a GPU that hides its processes still
shows its memory.
"""

import importlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from kit.memory.probes.proc import PROC
from kit.memory.unavailable import Unavailable

T = TypeVar("T")
Version = tuple[int, int]
_MOST_BYTES = 1 << 50
"""No GPU has a pebibyte; what is more is a driver's error code."""
_NOT_ASKED = Unavailable("it was not asked for")

Cause = Literal["bindings", "library", "not loaded", "mismatch", "no permission", "lost", "failed"]
_CAUSES: Mapping[int, Cause] = {
    4: "no permission",  # NVML_ERROR_NO_PERMISSION
    9: "not loaded",  # NVML_ERROR_DRIVER_NOT_LOADED
    12: "library",  # NVML_ERROR_LIBRARY_NOT_FOUND
    15: "lost",  # NVML_ERROR_GPU_IS_LOST
    16: "lost",  # NVML_ERROR_RESET_REQUIRED
    18: "mismatch",  # NVML_ERROR_LIB_RM_VERSION_MISMATCH
    999: "lost",  # NVML_ERROR_UNKNOWN: how nvidia-smi, too, finds a card that fell off the bus
}


@dataclass(frozen=True)
class NoDriver(Unavailable):
    """No driver answers. ``cause`` says why, as far as the remedy depends on it."""

    cause: Cause


@dataclass(frozen=True)
class GpuProcess:
    """A process that holds device memory.

    Attributes:
        name: its command's name, without arguments.
        used_bytes: unavailable inside a container, and under WSL2.
    """

    pid: int
    name: str | Unavailable
    used_bytes: int | Unavailable


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one MIG instance of it.

    Attributes:
        index: of the GPU, among all of the machine; an instance has its GPU's.
        total_bytes, used_bytes: unavailable where the GPU shares the host's memory.
            ``used_bytes`` counts every process on it and the driver's own share.
        capability: CUDA compute capability, such as (8, 6).
        processes: those that NVML lists, the largest first.
        instances: MIG instances. None: MIG is off, or the GPU cannot do it; then CUDA programs use
            the GPU itself, else only its instances.
    """

    index: int
    uuid: str
    name: str
    total_bytes: int | Unavailable
    used_bytes: int | Unavailable
    driver: str
    capability: Version | Unavailable = _NOT_ASKED
    processes: tuple[GpuProcess, ...] | Unavailable = _NOT_ASKED
    instances: "tuple[Gpu, ...] | None" = None

    @property
    def simulated(self) -> bool:
        """Whether it is the pretended GPU of the tests, by the name that its driver gives it."""
        return self.name.startswith("Simulated")

    @property
    def free_bytes(self) -> int | Unavailable:
        """What a process can still allocate."""
        if isinstance(self.total_bytes, Unavailable):
            return self.total_bytes
        if isinstance(self.used_bytes, Unavailable):
            return self.used_bytes
        return self.total_bytes - self.used_bytes


@dataclass(frozen=True)
class Nvidia:
    """The driver and its GPUs.

    Attributes:
        driver: its version, such as ``580.65.06``.
        cuda: the newest CUDA that it speaks.
        gpus: those that answer.
        lost: of each that does not, which one and what NVML says of it.
    """

    driver: str
    cuda: Version | Unavailable
    gpus: tuple[Gpu, ...]
    lost: tuple[str, ...] = ()


def probe() -> Nvidia | Unavailable:
    """Driver and GPUs, with everything that NVML tells. A ``NoDriver`` where none answers."""
    return _session(_nvidia)


def gpus() -> tuple[Gpu, ...] | Unavailable:
    """All GPUs of the machine; unavailable when no NVIDIA driver answers."""
    found = probe()
    return found if isinstance(found, Unavailable) else found.gpus


def visible(found: tuple[Gpu, ...], environ: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Those of ``found`` that CUDA may use, in its order, as ``CUDA_VISIBLE_DEVICES`` says.

    As in CUDA, entries are indices or the beginnings of UUIDs, and the first unknown one ends the
    list. Of MIG instances CUDA uses one: that which is named, else the first.
    """
    names = environ.get("CUDA_VISIBLE_DEVICES")
    if names is None:
        return tuple(_usable(found))
    chosen: list[Gpu] = []
    for name in (part.strip() for part in names.split(",")):
        match = [gpu for gpu in _usable(found, name) if _is_named(gpu, name)]
        if not match:
            break
        chosen.append(match[0])
    return tuple(chosen)


def processes_bytes(pids: Collection[int]) -> int | Unavailable:
    """Device memory that the processes ``pids`` hold now, over all GPUs, CUDA context included.

    Unavailable when NVML lists none of them, as it does across a container's border.
    """

    held = processes_bytes_by_gpu(pids)
    return held if isinstance(held, Unavailable) else sum(held.values())


def processes_bytes_by_gpu(pids: Collection[int]) -> dict[int, int] | Unavailable:
    """The same, GPU by GPU, by their index; those on which they hold something."""

    def measure(nvml: Any) -> dict[int, int] | Unavailable:
        held: dict[int, int] = {}
        for index, handle in _handles(nvml):
            running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            sizes = [process.usedGpuMemory for process in running if process.pid in pids]
            if None in sizes:
                return Unavailable("NVML does not tell the memory of single processes here")
            if sizes:
                held[index] = sum(sizes)
        return held or Unavailable("NVML lists no process of the service")

    return _session(measure)


@contextmanager
def kept_open() -> Iterator[None]:
    """Within it, every question is spared the driver's library being opened and closed anew."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        yield
        return
    with suppress(nvml.NVMLError):  # whoever asks is told why
        nvml.nvmlInit()
    try:
        yield
    finally:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _usable(found: tuple[Gpu, ...], name: str = "") -> Iterator[Gpu]:
    """GPUs as CUDA counts them: of those in MIG mode one instance, the named or the first."""
    for gpu in found:
        if gpu.instances is None:
            yield gpu
        else:
            named = [one for one in gpu.instances if name and one.uuid.startswith(name)]
            yield from (named or gpu.instances)[:1]


def _is_named(gpu: Gpu, name: str) -> bool:
    return bool(name) and (str(gpu.index) == name or gpu.uuid.startswith(name))


def _nvidia(nvml: Any) -> Nvidia | Unavailable:
    driver = str(nvml.nvmlSystemGetDriverVersion())
    number = _told(nvml, nvml.nvmlSystemGetCudaDriverVersion)
    found: list[Gpu] = []
    lost: list[str] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            found.append(_gpu(nvml, index, driver))
        except nvml.NVMLError as error:
            if _CAUSES.get(error.value) != "lost":
                raise
            lost.append(f"GPU {index}: {error}")
    if lost and not found:
        return NoDriver(f"NVML failed ({'; '.join(lost)})", "lost")
    return Nvidia(
        driver=driver,
        cuda=number if isinstance(number, Unavailable) else (number // 1000, number % 1000 // 10),
        gpus=tuple(found),
        lost=tuple(lost),
    )


def _handles(nvml: Any) -> Iterator[tuple[int, Any]]:
    """Of the GPUs that answer, with their index."""
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            yield index, nvml.nvmlDeviceGetHandleByIndex(index)
        except nvml.NVMLError as error:
            if _CAUSES.get(error.value) != "lost":
                raise


def _gpu(nvml: Any, index: int, driver: str) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    mode = _told(nvml, nvml.nvmlDeviceGetMigMode, handle)
    in_mig_mode = not isinstance(mode, Unavailable) and bool(mode[0])
    instances = tuple(_instances(nvml, handle, index, driver)) if in_mig_mode else None
    return _device(nvml, handle, index, driver, instances)


def _instances(nvml: Any, handle: Any, index: int, driver: str) -> Iterator[Gpu]:
    """MIG instances; slots that no instance has been made in answer NOT_FOUND."""
    count = _told(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, handle)
    for slot in range(0 if isinstance(count, Unavailable) else count):
        instance = _told(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, slot)
        if not isinstance(instance, Unavailable):
            yield _device(nvml, instance, index, driver, None)


def _device(
    nvml: Any, handle: Any, index: int, driver: str, instances: tuple[Gpu, ...] | None
) -> Gpu:
    memory = _told(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
    hidden = memory if isinstance(memory, Unavailable) else _impossible(memory)
    return Gpu(
        index=index,
        uuid=str(nvml.nvmlDeviceGetUUID(handle)),
        name=str(nvml.nvmlDeviceGetName(handle)),
        total_bytes=hidden or int(memory.total),
        used_bytes=hidden or int(memory.used),
        driver=driver,
        capability=_told(nvml, nvml.nvmlDeviceGetCudaComputeCapability, handle),
        processes=_processes(nvml, handle),
        instances=instances,
    )


def _impossible(memory: Any) -> Unavailable | None:
    """Why figures of a GPU's memory cannot be true; None: they can."""
    if 0 < memory.total < _MOST_BYTES and 0 <= memory.used <= memory.total:
        return None
    return Unavailable(f"NVML tells of {memory.used} bytes in use of {memory.total}")


def _processes(nvml: Any, handle: Any) -> tuple[GpuProcess, ...] | Unavailable:
    """Programs that compute and those that draw; one that does both is listed twice by NVML."""
    computing = _told(nvml, nvml.nvmlDeviceGetComputeRunningProcesses, handle)
    drawing = _told(nvml, nvml.nvmlDeviceGetGraphicsRunningProcesses, handle)
    if isinstance(computing, Unavailable):
        return Unavailable(computing.reason)
    told = [computing, () if isinstance(drawing, Unavailable) else drawing]
    held: dict[int, int | None] = {}
    for process in (process for listed in told for process in listed):
        held[process.pid] = max(held.get(process.pid) or 0, process.usedGpuMemory or 0) or None
    hidden = Unavailable("NVML does not tell the memory of single processes here")
    by_size = sorted(held.items(), key=lambda entry: (-(entry[1] or 0), entry[0]))
    return tuple(GpuProcess(pid, _name(nvml, pid), size or hidden) for pid, size in by_size)


def _name(nvml: Any, pid: int) -> str | Unavailable:
    """As the driver knows it, also across a container's border; else as /proc does."""
    told = _told(nvml, nvml.nvmlSystemGetProcessName, pid)
    if not isinstance(told, Unavailable) and told:
        return Path(str(told).split()[0]).name
    try:
        return (PROC / str(pid) / "comm").read_text(errors="replace").strip()
    except OSError:
        return Unavailable("the process cannot be seen from here")


def _told(nvml: Any, ask: Callable[..., Any], *arguments: Any) -> Any:
    """What NVML answers to one question; Unavailable where it has no answer."""
    try:
        return ask(*arguments)
    except nvml.NVMLError as error:
        return Unavailable(f"NVML does not tell ({error})")
    except nvml.NVMLLibraryMismatchError:
        return Unavailable("this driver is too old to tell")


def _session(use: Callable[[Any], T]) -> T | Unavailable:
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return NoDriver("the Python package nvidia-ml-py is not installed", "bindings")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        reason = f"no NVIDIA driver answers ({error})"
        return NoDriver(reason, _CAUSES.get(error.value, "failed"))
    try:
        return use(nvml)
    except nvml.NVMLError as error:
        return NoDriver(f"NVML failed ({error})", _CAUSES.get(error.value, "failed"))
    except nvml.NVMLLibraryMismatchError:
        return NoDriver("this driver is too old for NVML's bindings", "failed")
    finally:
        nvml.nvmlShutdown()
