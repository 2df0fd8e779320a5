"""The VRAM that a service's processes hold now."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from kit.memory import nvml
from kit.memory.unavailable import Unavailable


@dataclass(frozen=True)
class DeviceUse:
    """Measures by process where the driver tells that, else what the GPUs hold more than before.

    Inside a container and under WSL2 the driver tells of whole GPUs only. What others take
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
