"""What the control group (a container's or a service's limit) leaves of memory, v1 and v2."""

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

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
class _Layout:
    mount: str
    limit: str
    usage: str
    inactive: str


_V2 = _Layout("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
_V1 = _Layout(
    "sys/fs/cgroup/memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "total_inactive_file",
)
_NO_LIMIT_BYTES = 1 << 60  # v1 writes "no limit" as the largest page-aligned 64-bit number


def memory_limit(*, root: Path = ROOT) -> CgroupMemory | Unavailable | None:
    """The tightest limit from this process's control group up to the root; None: no limit.

    ``root`` is where ``proc/`` and ``sys/`` are. In a container the path that /proc/self/cgroup
    names may lie outside the mounted hierarchy; the mount's own top is then the container's group.
    """
    try:
        memberships = os.fsdecode((root / "proc/self/cgroup").read_bytes()).splitlines()
    except OSError as error:
        return Unavailable(f"/proc/self/cgroup cannot be read ({error.strerror})")
    limits = [
        limit
        for line in memberships
        for limit in _limits_of(line, root)
        if limit.limit_bytes < _NO_LIMIT_BYTES
    ]
    return min(limits, key=lambda limit: limit.free_bytes, default=None)


def _limits_of(membership: str, root: Path) -> list[CgroupMemory]:
    """Limits along one line ``hierarchy:controllers:path`` of /proc/self/cgroup."""
    hierarchy, controllers, path = membership.split(":", 2)
    if hierarchy != "0" and "memory" not in controllers.split(","):
        return []
    layout = _V2 if hierarchy == "0" else _V1
    group = PurePosixPath(path.lstrip("/"))
    folders = [root / layout.mount / part for part in (group, *group.parents)]
    return [limit for folder in dict.fromkeys(folders) if (limit := _limit(folder, layout))]


def _limit(folder: Path, layout: _Layout) -> CgroupMemory | None:
    try:
        limit = (folder / layout.limit).read_text().strip()
        if limit == "max":
            return None
        used = int((folder / layout.usage).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:
        return None  # the root group, or a group outside this mount: it carries no limit here
    used -= int(stat.get(layout.inactive, "0"))
    return CgroupMemory(int(limit), used, str(folder / layout.limit))
