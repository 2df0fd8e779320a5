"""The memory that a running service has taken at its peak, wherever it runs."""

from kit.memory import nvml, proc
from kit.memory.hold import Measured
from kit.memory.unavailable import Unavailable
from kit.stack.runtime import Runtime
from kit.stack.service import Ready, Service


def measure(runtime: Runtime, service: Service, device: str) -> Measured:
    """The peaks so far.

    Host RAM is the sum of the processes' resident peaks as this machine's kernel counts them, also
    across a container's border; where they cannot be seen, what the server says of itself. Control
    groups are not asked: they count the cache of every file that was read.
    """
    pids = runtime.processes()
    health = service.health()
    ready = health if isinstance(health, Ready) else None
    return Measured(_host_peak(pids, ready), _device_peak(pids, ready, device))


def _host_peak(pids: tuple[int, ...] | Unavailable, ready: Ready | None) -> int | Unavailable:
    seen = pids if isinstance(pids, Unavailable) else proc.tree_peak_bytes(pids[0])
    told = ready.host_peak_bytes if ready else None
    return told if isinstance(seen, Unavailable) and told is not None else seen


def _device_peak(
    pids: tuple[int, ...] | Unavailable, ready: Ready | None, device: str
) -> int | Unavailable:
    """The larger of NVML's figure for the processes and what the server says its peak was."""
    if device == "cpu":
        return Unavailable("the model runs on the CPU")
    held = pids if isinstance(pids, Unavailable) else nvml.processes_bytes(pids)
    told = ready.device_peak_bytes if ready else None
    figures = [size for size in (held, told) if isinstance(size, int)]
    return max(figures) if figures else held
