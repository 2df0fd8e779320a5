"""The memory that a running service has taken at its peak, wherever it runs."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from kit.memory.budget import Measured, MeasuredBy
from kit.memory.plan.line import Pool
from kit.memory.probes import nvml, proc
from kit.memory.probes.vram import estimated_peak, proven_peak
from kit.memory.timeline import Timeline
from kit.memory.unavailable import Unavailable
from kit.runtime.client import Client, Ready
from kit.runtime.protocol import Runtime


@dataclass(frozen=True)
class DeviceUse:
    """Measures by process where the driver tells that, else what the GPUs hold more than before.

    Inside a container and under WSL2 the driver reports whole GPUs only. What others take
    meanwhile then counts as the service's.

    Attributes:
        before: bytes used of each of the service's GPUs before it was started, by UUID; None: that
            was not looked at.
    """

    before: Mapping[str, int] | None = None

    @classmethod
    def before_start(cls, uuids: Collection[str]) -> "DeviceUse":
        """Look at these GPUs now, before the service starts."""
        return cls(_used(uuids))

    def measure(self, pids: Collection[int] | Unavailable) -> int | Unavailable:
        """Bytes that the processes hold now, their CUDA contexts included."""
        held = pids if isinstance(pids, Unavailable) else nvml.processes_bytes(pids)
        if not isinstance(held, Unavailable) or not self.before:
            return held
        used = _used(self.before)
        if used is None:
            return held
        return sum(max(0, size - self.before[uuid]) for uuid, size in used.items())


def _used(uuids: Collection[str]) -> dict[str, int] | None:
    """Bytes used of each of these GPUs; None where one does not tell."""
    found = nvml.gpus()
    if isinstance(found, Unavailable):
        return None
    devices = [one for gpu in found for one in (gpu, *(gpu.instances or ()))]
    used = {
        one.uuid: one.used_bytes
        for one in devices
        if one.uuid in uuids and not isinstance(one.used_bytes, Unavailable)
    }
    return used if len(used) == len(set(uuids)) else None


def measure(runtime: Runtime, client: Client, device: str, timeline: Timeline) -> Measured:
    """The peaks so far, by what is told now and by the samples of ``timeline``: a proof.

    Host RAM is the sum of the processes' resident peaks as this machine's kernel counts them, also
    across a container's border; where they cannot be seen, what the server says of itself. Control
    groups are not asked: they count the cache of every file that was read. VRAM is what the driver
    tells, and unavailable where it tells nothing.
    """
    pids, ready = runtime.processes(), _ready(client)
    seen = max((sample.peak_bytes for sample in timeline.samples), default=0)
    host = _host(pids, ready, seen)
    if device == "cpu":
        return host
    most = timeline.peak(Pool.DEVICE)
    sampled = most.device_bytes if most else None
    peak, by = proven_peak(_held(pids), sampled, ready.device_peak_bytes if ready else None)
    return replace(host, device_peak_bytes=peak, device_by=by)


def look_again(runtime: Runtime, client: Client, device: str) -> Measured:
    """The peaks so far of a service that was proven when it started.

    Where the driver tells nothing of its processes, its VRAM is torch's pool and the CUDA context
    that is assumed.
    """
    pids, ready = runtime.processes(), _ready(client)
    host = _host(pids, ready, 0)
    if device == "cpu":
        return host
    peak, by = estimated_peak(_held(pids), ready.device_peak_bytes if ready else None)
    return replace(host, device_peak_bytes=peak, device_by=by)


def _ready(client: Client) -> Ready | None:
    health = client.health()
    return health if isinstance(health, Ready) else None


def _held(pids: tuple[int, ...] | Unavailable) -> int | Unavailable:
    return pids if isinstance(pids, Unavailable) else nvml.processes_bytes(pids)


def _host(pids: tuple[int, ...] | Unavailable, ready: Ready | None, sampled_bytes: int) -> Measured:
    """Host RAM alone, of a model on the CPU."""
    no_vram = Unavailable("the model runs on the CPU")
    counted = pids if isinstance(pids, Unavailable) else proc.tree_peak_bytes(pids[0])
    told = ready.host_peak_bytes if ready else None
    by: MeasuredBy | None = "kernel"
    if isinstance(counted, Unavailable):
        by = None if told is None else "service"
    known = [size for size in (counted, told) if isinstance(size, int)][:1]
    known += [sampled_bytes] if sampled_bytes else []
    return Measured(max(known), no_vram, by) if known else Measured(counted, no_vram)
