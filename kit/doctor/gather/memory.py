"""Memory of the host, and the limits that this shell sets."""

import os
import resource

from kit.doctor.facts import Facts, HostMemory
from kit.doctor.request import Request
from kit.memory import proc
from kit.memory.unavailable import Unavailable

_SHM = "/dev/shm"  # noqa: S108  (asked for its size only)


def look(request: Request, facts: Facts) -> HostMemory:
    """RAM, ``ulimit -v``, ``ulimit -l`` and /dev/shm."""
    return HostMemory(
        total_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        available_bytes=proc.available_ram_bytes(),
        address_space_bytes=proc.address_space_limit_bytes(),
        locked_bytes=_limit(resource.RLIMIT_MEMLOCK),
        shm_free_bytes=_shm_free_bytes(),
    )


def _limit(which: int) -> int | None:
    soft, _ = resource.getrlimit(which)
    return None if soft == resource.RLIM_INFINITY else soft


def _shm_free_bytes() -> int | Unavailable:
    try:
        state = os.statvfs(_SHM)
    except OSError as error:
        return Unavailable(f"{_SHM}: {error.strerror}")
    return state.f_bavail * state.f_frsize
