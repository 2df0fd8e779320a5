"""Memory of control groups (containers, services): limit, use, peak, kills; v1 and v2.

Files as the kernel documents them: Documentation/admin-guide/cgroup-v2.rst (memory.max, .high,
.current, .peak, .events) and cgroup-v1/memory.rst (memory.limit_in_bytes, .usage_in_bytes,
.max_usage_in_bytes, .oom_control, .failcnt).
"""

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from kit.memory.unavailable import Unavailable

ROOT = Path("/")


@dataclass(frozen=True)
class CgroupMemory:
    """The tightest memory limit that holds for this process.

    Attributes:
        limit_bytes: the limit.
        used_bytes: charged now, less the inactive file cache, which the kernel drops on demand.
        source: the file that carries the limit.
    """

    limit_bytes: int
    used_bytes: int
    source: str

    @property
    def free_bytes(self) -> int:
        """What can still be taken under the limit."""
        return max(0, self.limit_bytes - self.used_bytes)


@dataclass(frozen=True)
class Group:
    """A control group that counts memory. Its folder outlives the processes that were in it."""

    version: Literal[1, 2]
    folder: Path


@dataclass(frozen=True)
class CgroupUsage:
    """What a group's processes took, counted by the kernel: page cache included.

    Attributes:
        peak_bytes: the most so far; unavailable in v2 before Linux 5.19.
        limit_bytes: the group's own limit; None: it has none.
        limit_hits: how often the limit stood in the way of an allocation.
        oom_kills: processes that the kernel killed because memory ran out.
    """

    current_bytes: int | Unavailable
    peak_bytes: int | Unavailable
    limit_bytes: int | Unavailable | None
    limit_hits: int | Unavailable
    oom_kills: int | Unavailable


@dataclass(frozen=True)
class _Layout:
    version: Literal[1, 2]
    mount: str
    limit: str
    usage: str
    peak: str
    inactive: str
    throttle: str | None = None
    """A second limit. Nobody is killed at it: whoever passes it is all but stopped."""


_V2 = _Layout(
    2,
    "sys/fs/cgroup",
    "memory.max",
    "memory.current",
    "memory.peak",
    "inactive_file",
    throttle="memory.high",
)
_V1 = _Layout(
    1,
    "sys/fs/cgroup/memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "memory.max_usage_in_bytes",
    "total_inactive_file",
)
_NO_LIMIT_BYTES = 1 << 60  # v1 writes "no limit" as the largest page-aligned 64-bit number


def memory_limit(*, root: Path = ROOT) -> CgroupMemory | Unavailable | None:
    """The tightest limit from this process's control group up to the root; None: no limit.

    ``root`` is where ``proc/`` and ``sys/`` are. In a container the path that /proc/self/cgroup
    names may lie outside the mounted hierarchy; the mount's own top is then the container's group.
    """
    memberships = _memberships("self", root)
    if isinstance(memberships, Unavailable):
        return memberships
    limits = [
        limit
        for line in memberships
        for layout, folder in _folders(line, root)
        for name in (layout.limit, layout.throttle)
        if (limit := _limit(folder, layout, name)) and limit.limit_bytes < _NO_LIMIT_BYTES
    ]
    return min(limits, key=lambda limit: limit.free_bytes, default=None)


def group_of(pid: int | Literal["self"], *, root: Path = ROOT) -> Group | Unavailable:
    """The group that the memory of process ``pid`` is counted in."""
    memberships = _memberships(str(pid), root)
    if isinstance(memberships, Unavailable):
        return memberships
    for line in memberships:
        for layout, folder in _folders(line, root):
            if (folder / layout.usage).exists():
                return Group(layout.version, folder)
    return Unavailable(f"process {pid} is in no control group that counts memory")


def usage(group: Group) -> CgroupUsage:
    """What the group's processes take and took."""
    layout = _V1 if group.version == 1 else _V2
    limit = _number(group.folder / layout.limit)
    if group.version == 1:
        hits = _number(group.folder / "memory.failcnt")
        kills = _count(group.folder / "memory.oom_control", "oom_kill")
    else:
        hits = _count(group.folder / "memory.events", "max")
        kills = _count(group.folder / "memory.events", "oom_kill")
    return CgroupUsage(
        current_bytes=_number(group.folder / layout.usage),
        peak_bytes=_number(group.folder / layout.peak),
        limit_bytes=None if isinstance(limit, int) and limit >= _NO_LIMIT_BYTES else limit,
        limit_hits=hits,
        oom_kills=kills,
    )


def _memberships(pid: str, root: Path) -> list[str] | Unavailable:
    """Lines ``hierarchy:controllers:path`` of /proc/PID/cgroup, see cgroups(7)."""
    try:
        return os.fsdecode((root / "proc" / pid / "cgroup").read_bytes()).splitlines()
    except OSError as error:
        return Unavailable(f"/proc/{pid}/cgroup cannot be read ({error.strerror})")


def _folders(membership: str, root: Path) -> list[tuple[_Layout, Path]]:
    """The group's folder and its ancestors', if this line is of a hierarchy for memory."""
    hierarchy, controllers, path = membership.split(":", 2)
    if hierarchy != "0" and "memory" not in controllers.split(","):
        return []
    layout = _V2 if hierarchy == "0" else _V1
    group = PurePosixPath(path.lstrip("/"))
    folders = [root / layout.mount / part for part in (group, *group.parents)]
    return [(layout, folder) for folder in dict.fromkeys(folders)]


def _limit(folder: Path, layout: _Layout, name: str | None) -> CgroupMemory | None:
    """By the group's file of that name."""
    if name is None:
        return None
    try:
        limit = (folder / name).read_text().strip()
        if limit == "max":
            return None
        used = int((folder / layout.usage).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:
        return None  # the root group, or a group outside this mount: it carries no limit here
    used -= int(stat.get(layout.inactive, "0"))
    return CgroupMemory(int(limit), used, str(folder / name))


def _number(path: Path) -> int | Unavailable:
    """The file's number; v2 writes "max" where there is no limit."""
    text = _text(path)
    if isinstance(text, Unavailable):
        return text
    return _NO_LIMIT_BYTES if text.strip() == "max" else int(text)


def _count(path: Path, key: str) -> int | Unavailable:
    """The number after ``key`` in a file of ``key number`` lines."""
    text = _text(path)
    if isinstance(text, Unavailable):
        return text
    counts = dict(line.split() for line in text.splitlines())
    return int(counts[key]) if key in counts else Unavailable(f"{path} has no {key}")


def _text(path: Path) -> str | Unavailable:
    try:
        return path.read_text()
    except OSError as error:
        return Unavailable(f"{path} cannot be read ({error.strerror})")
