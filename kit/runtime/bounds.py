"""What the kernel holds a local process to: its address space, its data, its control group."""

import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kit.memory.probes import cgroup
from kit.memory.probes.cgroup import Group
from kit.memory.unavailable import Unavailable


@dataclass(frozen=True)
class Bounds:
    """As it was when the process started. Its control group can be asked even after its death.

    Attributes:
        address_space_bytes: its RLIMIT_AS (``ulimit -v``); None: no limit.
        group: folder of the control group that counts its memory; None: none does.
        group_version: of control groups, 1 or 2.
        oom_kills: in that group by then; None where the kernel does not tell.
        data_bytes: its RLIMIT_DATA (``ulimit -d``); None: no limit.
    """

    address_space_bytes: int | None = None
    group: str | None = None
    group_version: Literal[1, 2] = 2
    oom_kills: int | None = None
    data_bytes: int | None = None


NO_BOUNDS = Bounds()
"""No limit is known."""


def bounds_of(pid: int) -> Bounds:
    """Of a process that has just been started."""
    space, data = _limit(pid, resource.RLIMIT_AS), _limit(pid, resource.RLIMIT_DATA)
    group = cgroup.group_of(pid)
    if isinstance(group, Unavailable):
        return Bounds(space, data_bytes=data)
    kills = cgroup.usage(group).oom_kills
    before = None if isinstance(kills, Unavailable) else kills
    return Bounds(space, str(group.folder), group.version, before, data)


def _limit(pid: int, kind: int) -> int | None:
    try:
        soft, _ = resource.prlimit(pid, kind)
    except OSError:
        return None
    return None if soft == resource.RLIM_INFINITY else soft


def group_of(bounds: Bounds) -> Group | None:
    """The control group, if one counts the process's memory."""
    return Group(bounds.group_version, Path(bounds.group)) if bounds.group else None
