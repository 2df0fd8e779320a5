"""Which memory ran out when a server died: GPU, control group, machine, address space, data."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kit.errors import BudgetExceeded, KitError, ServiceError
from kit.memory import cgroup
from kit.memory.kernel_log import Kill
from kit.memory.plan import Pool
from kit.memory.timeline import Timeline
from kit.memory.unavailable import Unavailable
from kit.runtime.bounds import group_of
from kit.runtime.protocol import Running
from kit.units import format_gib, parse_size

SIGKILL, SIGABRT, SIGSEGV = 137, 134, 139
_CRASHES = (1, SIGABRT, SIGSEGV)
"""An exception that escaped, too: imports that fail for lack of memory say all sorts of things."""
LESS = "ask for less: --context, --max-sequences"
_CUDA = ("CUDA out of memory", "torch.OutOfMemoryError")
_HOST = (
    "MemoryError",
    "annot allocate memory",
    "can't allocate memory",
    "std::bad_alloc",
    "failed to map segment from shared object",
    "can't start new thread",
)
_SIZE = r"(\d+(?:\.\d+)? (?:bytes|[KMGT]iB))"
_TRIED = re.compile(rf"Tried to allocate {_SIZE}")
_FREE = re.compile(rf"of which {_SIZE} is free")
_UNLIMITED = "raise it and start again: ulimit -v unlimited"
_NEARLY = 0.9
"""Of a limit: whoever took that much died of it."""


@dataclass(frozen=True)
class Lived:
    """What was seen of a service before it ended; nothing where nobody looked.

    Attributes:
        address_space_peak_bytes: the largest VmPeak of one of its processes.
        pids: all its processes.
    """

    timeline: Timeline | None = None
    address_space_peak_bytes: int = 0
    pids: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Death:
    """A service that has ended.

    Attributes:
        log: its last lines.
        kills: that the kernel's log has since the service was started.
    """

    ended: Running
    log: Sequence[str]
    lived: Lived
    kills: tuple[Kill, ...] | Unavailable

    @property
    def code(self) -> str:
        """The exit code in parentheses, where it is known."""
        code = self.ended.exit_code
        return "" if isinstance(code, Unavailable) else f" (exit code {code})"

    @property
    def own_kill(self) -> Kill | None:
        """One of its processes among those that the kernel killed."""
        pids = {*self.lived.pids, self.ended.pid}
        found = () if isinstance(self.kills, Unavailable) else self.kills
        return next((kill for kill in found if kill.pid in pids), None)

    def says(self, *marks: str) -> bool:
        """Whether one of ``marks`` stands in its log."""
        return any(mark in line for line in self.log for mark in marks)

    def phase(self) -> str:
        """In which phase it was, if that was seen."""
        timeline = self.lived.timeline
        return f" in phase {timeline.samples[-1].phase}" if timeline and timeline.samples else ""

    def figures(self, pool: Pool) -> str:
        """What it held, was planned to hold and was allowed, as far as that is known."""
        timeline = self.lived.timeline
        if timeline is None or (peak := timeline.peak(pool)) is None:
            return ""
        size = peak.host_bytes if pool is Pool.HOST else peak.device_bytes or 0
        words = [f"; it was seen to hold {format_gib(size)} at most"]
        if planned := timeline.run.planned_bytes.get(pool.value):
            words.append(f"planned {format_gib(planned)}")
        if budget := timeline.run.budget_bytes.get(pool.value):
            words.append(f"budget {format_gib(budget)}")
        return ", ".join(words)


def out_of_memory(death: Death) -> KitError | None:
    """The error that says which memory ran out; None: nothing tells that any did."""
    for find in (_container_limit, _group_limit, _machine, _gpu, _address_space, _data):
        if (error := find(death)) is not None:
            return error
    return None


def refused_request(message: str, running: Running, lived: Lived) -> KitError | None:
    """The error for a request that ended with ``message`` because memory ran out, if it did."""
    death = Death(running, [message], lived, ())
    if (error := _gpu(death)) is not None or not _near_address_limit(death):
        return error
    return ServiceError(f"{message} (it is {_address_limit(death)})", hint=_UNLIMITED)


def _container_limit(death: Death) -> KitError | None:
    if not death.ended.out_of_memory:
        return None
    limit = death.ended.spec.max_ram_bytes
    size = f" of {format_gib(limit)}" if limit else ""
    return BudgetExceeded(
        f"the kernel killed the server{death.code}{death.phase()}: it reached its container's "
        f"memory limit{size}, which is the budget of host RAM{death.figures(Pool.HOST)}",
        hint=f"{LESS}; or allow more with --max-ram",
    )


def _group_limit(death: Death) -> KitError | None:
    """By the kernel's log, else by the group's own count of kills and how near its limit it got."""
    kill, group = death.own_kill, group_of(death.ended.bounds)
    if kill is None and (group is None or not _may_be_killed(death)):
        return None
    use = cgroup.usage(group) if group else None
    limit = use.limit_bytes if use and isinstance(use.limit_bytes, int) else None
    by_count = kill is None and use is not None and _was_hit(death, use, limit)
    if not by_count and (kill is None or kill.scope != "group"):
        return None
    size = f" of {format_gib(limit)}" if limit else ""
    where = f" ({group.folder})" if group and limit else ""
    return ServiceError(
        f"the kernel killed the server{death.code}{death.phase()}: its control group reached its "
        f"memory limit{size}{where}{_held(kill)}{death.figures(Pool.HOST)}",
        hint=f"raise that limit; or {LESS}",
    )


def _machine(death: Death) -> KitError | None:
    kill = death.own_kill
    if kill is None or kill.scope != "machine":
        return None
    return ServiceError(
        f"the kernel killed the server{death.code}{death.phase()}: the machine's memory ran out"
        f"{_held(kill)}{death.figures(Pool.HOST)}",
        hint=f"end what else takes memory; or {LESS}",
    )


def _gpu(death: Death) -> KitError | None:
    """torch says what it tried; where that much was free, the cap of ``--max-vram`` refused it."""
    if not death.says(*_CUDA):
        return None
    text = "\n".join(death.log)
    tried, free = _size(_TRIED, text), _size(_FREE, text)
    budget = death.ended.spec.max_vram_bytes
    words = "" if tried is None else f", {format_gib(tried)} more was asked for"
    words += "" if free is None else f" with {format_gib(free)} free"
    words = f"{death.phase()}{death.code}{words}{death.figures(Pool.DEVICE)}"
    if budget and tried is not None and free is not None and tried <= free:
        return BudgetExceeded(
            f"the VRAM budget of {format_gib(budget)} was used up{words}",
            hint=f"{LESS}; or allow more with --max-vram",
        )
    return ServiceError(
        f"the GPU's memory ran out{words}",
        hint=f"kit doctor names who else holds some; or {LESS}",
    )


def _address_space(death: Death) -> KitError | None:
    if death.ended.bounds.address_space_bytes is None:
        return None
    crashed = death.ended.exit_code in _CRASHES and _near_address_limit(death)
    if not crashed and not death.says(*_HOST):
        return None
    return ServiceError(
        f"the server ended{death.code}{death.phase()}, {_address_limit(death)}", hint=_UNLIMITED
    )


def _data(death: Death) -> KitError | None:
    """By its words alone: what counts under ``ulimit -d`` was not seen."""
    limit = death.ended.bounds.data_bytes
    if limit is None or not death.says(*_HOST):
        return None
    return ServiceError(
        f"the server ended{death.code}{death.phase()}, at the limit on its private memory "
        f"(ulimit -d), {format_gib(limit)}{death.figures(Pool.HOST)}",
        hint="raise it and start again: ulimit -d unlimited",
    )


def _near_address_limit(death: Death) -> bool:
    limit = death.ended.bounds.address_space_bytes
    return limit is not None and death.lived.address_space_peak_bytes > limit * _NEARLY


def _address_limit(death: Death) -> str:
    limit, peak = death.ended.bounds.address_space_bytes, death.lived.address_space_peak_bytes
    seen = f", of which it was seen to take {format_gib(peak)}" if peak else ""
    return f"at the limit on its address space (ulimit -v), {format_gib(limit or 0)}{seen}"


def says_no_memory(death: Death) -> bool:
    """Whether the log complains of host memory."""
    return death.says(*_HOST)


def _may_be_killed(death: Death) -> bool:
    return death.ended.exit_code == SIGKILL or isinstance(death.ended.exit_code, Unavailable)


def _was_hit(death: Death, use: cgroup.CgroupUsage, limit: int | None) -> bool:
    """Whether the group counts more kills than at the start, and got near a limit of its own."""
    before = death.ended.bounds.oom_kills
    if before is None or isinstance(use.oom_kills, Unavailable) or use.oom_kills <= before:
        return False
    near = isinstance(use.peak_bytes, int) and limit and use.peak_bytes > limit * _NEARLY
    return bool(near) or isinstance(use.peak_bytes, Unavailable)


def _held(kill: Kill | None) -> str:
    size = kill.resident_bytes if kill else 0
    return f"; it held {format_gib(size)} then" if size else ""


def _size(pattern: re.Pattern[str], text: str) -> int | None:
    """The last size that ``pattern`` finds, as torch writes it."""
    found = pattern.findall(text)
    return parse_size(found[-1].replace("bytes", "B")) if found else None
