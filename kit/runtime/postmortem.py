"""Why a server ended: from its exit code, what the kernel did, and the last lines it wrote."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kit.errors import BudgetExceeded, EnvironmentNotReady, IntegrityError, KitError, ServiceError
from kit.memory.plan.line import Pool
from kit.memory.probes import cgroup, kernel_log
from kit.memory.probes.kernel_log import Kill
from kit.memory.timeline import Timeline
from kit.memory.unavailable import Unavailable
from kit.runtime.bounds import group_of
from kit.runtime.client import Failed
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


@dataclass(frozen=True)
class _Cause:
    """If one of ``marks`` stands in the log, this is what happened."""

    marks: tuple[str, ...]
    what: str
    hint: str


# The kernel's log counts from the start of the machine and drifts from the clock.
_CLOCKS_DIFFER_SECONDS = 5.0
_CAUSES = (
    _Cause(
        ("address already in use", "Address already in use"),
        "its port was taken by another program",
        "choose another port: kit up --port",
    ),
    _Cause(
        ("CUDA driver version is insufficient", "NVIDIA driver on your system is too old"),
        "the NVIDIA driver is too old for this build of torch",
        "update the driver: CUDA 12 needs 525 or newer, CUDA 13 needs 580",
    ),
    _Cause(
        ("no kernel image is available",),
        "this build of torch has no kernels for the GPU",
        "kit doctor names the GPU's architecture; --device cpu needs none",
    ),
    _Cause(
        ("Found no NVIDIA driver", "No CUDA GPUs are available", "CUDA unknown error"),
        "it found no GPU that it can use",
        "look at nvidia-smi; in a container: sudo systemctl restart docker",
    ),
    _Cause(
        ("No module named 'torch'", "No module named 'fastapi'", "No module named 'transformers'"),
        "the packages that serving needs are not installed",
        "install them: make setup",
    ),
)
_AGAIN = "start it again: kit up"
_EXCEPTION = re.compile(r"[A-Za-z_.]+(Error|Exception): .")
_SIGNALLED = {
    0: _Cause((), "it was stopped from outside (docker stop, or the engine ended)", _AGAIN),
    255: _Cause((), "the Docker engine ended without stopping it first", _AGAIN),
    143: _Cause((), "it was stopped (SIGTERM) from outside", _AGAIN),
    139: _Cause((), "it crashed (SIGSEGV)", "see its log: kit logs"),
}
_OWN_ERRORS: dict[int, type[KitError]] = {
    error.exit_code: error for error in (EnvironmentNotReady, IntegrityError, BudgetExceeded)
}


def explain(
    ended: Running,
    log: Sequence[str],
    lived: Lived | None = None,
    *,
    kills: Callable[[], tuple[Kill, ...] | Unavailable] = kernel_log.kills,
) -> KitError:
    """The error to raise for a server that has ended after writing ``log``.

    Where the kernel, torch or the log tell that memory ran out, it says which, when, and how much.
    Else, if the server said itself what was wrong (``error: …``, ``hint: …``), that is passed on,
    with its exit code 3, 4 or 5. Everything else is a ServiceError.

    Args:
        lived: what was seen of it before.
        kills: asks the kernel whom it killed.
    """
    death = Death(ended, log, lived or Lived(), _since(ended, kills()))
    if (error := out_of_memory(death)) is not None:
        return error
    exit_code = ended.exit_code
    said = _last(log, "error: ")
    if said is not None and exit_code != 0:
        kind = _OWN_ERRORS.get(exit_code, ServiceError) if isinstance(exit_code, int) else None
        hint = _last(log, "hint: ") or "see its log: kit logs"
        return (kind or ServiceError)(f"the server ended: {said}", hint=hint)
    cause = _cause(death)
    code = "" if isinstance(exit_code, Unavailable) else f" with exit code {exit_code}"
    return ServiceError(f"the server ended{code}{death.phase()}: {cause.what}", hint=cause.hint)


def _since(ended: Running, kills: tuple[Kill, ...] | Unavailable) -> tuple[Kill, ...] | Unavailable:
    """Those after its start: a process id may have been another's before."""
    if isinstance(kills, Unavailable):
        return kills
    start = ended.started_at - (time.time() - time.monotonic()) - _CLOCKS_DIFFER_SECONDS
    return tuple(kill for kill in kills if kill.seconds > start)


def refusal(failed: Failed) -> KitError:
    """The error to raise for a server that runs on and says why it cannot serve."""
    return _OWN_ERRORS.get(failed.exit_code, ServiceError)(failed.error, hint=failed.hint)


def _cause(death: Death) -> _Cause:
    text = "\n".join(death.log)
    for cause in _CAUSES:
        if any(mark in text for mark in cause.marks):
            return cause
    if says_no_memory(death):
        return _Cause((), f"host memory ran out{death.figures(Pool.HOST)}", f"free some; or {LESS}")
    exit_code = death.ended.exit_code
    if exit_code == SIGKILL:
        return _killed(death)
    if isinstance(exit_code, int) and exit_code in _SIGNALLED:
        return _SIGNALLED[exit_code]
    raised = [line for line in death.log if _EXCEPTION.match(line)]
    return _Cause((), raised[-1] if raised else "it did not say why", "see its log: kit logs")


def _killed(death: Death) -> _Cause:
    """SIGKILL, and nothing tells that the kernel did it."""
    if death.kills == ():
        what = "it was killed (SIGKILL) from outside; the kernel's log tells of no lack of memory"
        return _Cause((), what, _AGAIN)
    return _Cause(
        (),
        "it was killed (SIGKILL), most likely by the kernel because memory ran out"
        f"{death.figures(Pool.HOST)}",
        f"see `dmesg | grep -i 'out of memory'`; {LESS}",
    )


def _last(log: Sequence[str], prefix: str) -> str | None:
    return next(
        (line.removeprefix(prefix) for line in reversed(log) if line.startswith(prefix)), None
    )
