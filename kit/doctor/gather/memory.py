"""Memory of the host, and the limits that this shell sets."""

import os
import resource

from kit.doctor.facts import Facts, HostMemory
from kit.doctor.request import Request
from kit.memory.unavailable import Unavailable

_SHM = "/dev/shm"  # noqa: S108  (asked for its size only)


def look(request: Request, facts: Facts) -> HostMemory:
    """RAM, ``ulimit -l`` and /dev/shm; what is free of RAM is asked where the plan is made."""
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return HostMemory(
        total_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        locked_bytes=None if locked == resource.RLIM_INFINITY else locked,
        shm_free_bytes=_shm_free_bytes(),
    )


def _shm_free_bytes() -> int | Unavailable:
    try:
        state = os.statvfs(_SHM)
    except OSError as error:
        return Unavailable(f"{_SHM}: {error.strerror}")
    return state.f_bavail * state.f_frsize
