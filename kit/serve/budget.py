"""The memory of a service that runs: what it holds, compared with its budget again and again."""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Literal, get_args

from kit.errors import BudgetExceeded, UsageError
from kit.memory.budget import Budget, Measured, Verdict, assess
from kit.memory.probes import nvml
from kit.memory.probes.proc import ProcessMemory, descendants, process_memory, tree_peak_bytes
from kit.memory.probes.vram import estimated_peak
from kit.memory.unavailable import Unavailable
from kit.serve.model import Model
from kit.serve.readiness import Breach, Readiness
from kit.units import MIB, format_gib

# What grew by less than that explains no breach.
_WORTH_NAMING_BYTES = 8 * MIB


@dataclass(frozen=True)
class Parts:
    """What the process and its children hold now, in bytes; a GPU's figures are None without one.

    Attributes:
        private: of this process, not backed by a file.
        mapped: pages of files; the kernel can drop them.
        shared: shared memory.
        ranks: all that of other processes of the engine.
        tensors: what live tensors take of torch's pool on the GPU.
        unused: what that pool holds beyond.
    """

    private: int
    mapped: int = 0
    shared: int = 0
    ranks: int = 0
    tensors: int | None = None
    unused: int | None = None

    @property
    def host_bytes(self) -> int:
        """All host RAM."""
        return self.private + self.mapped + self.shared + self.ranks

    def growth_since(self, before: "Parts") -> str:
        """What has grown by enough to be named, such as ``private memory +0.30 GiB``."""
        names = {
            "private": "private memory",
            "mapped": "mapped files",
            "shared": "shared memory",
            "ranks": "the engine's ranks",
            "tensors": "tensors on the GPU",
            "unused": "unused memory of torch's pool",
        }
        grown = [
            f"{names[each.name]} +{format_gib(more)}"
            for each in fields(self)
            if (more := (getattr(self, each.name) or 0) - (getattr(before, each.name) or 0))
            >= _WORTH_NAMING_BYTES
        ]
        return ", ".join(grown)


@dataclass(frozen=True)
class Footprint:
    """What the service takes: its peaks so far, what it holds now, and what that consists of."""

    peaks: Measured
    now: Measured
    parts: Parts


def memory_figures(model: Model) -> dict[str, int | None]:
    """Figures in bytes, of this process and its children; None where this machine cannot tell.

    host_peak_bytes is the resident peak (VmHWM), host_private_bytes what is resident now and not
    backed by a file (RssAnon), host_mapped_bytes the resident pages of files (RssFile);
    device_peak_bytes is the peak of torch's pool, device_reserved_bytes the pool now and
    device_allocated_bytes what live tensors take of it.
    """
    found = map(process_memory, (os.getpid(), *descendants(os.getpid())))
    known = [each for each in found if isinstance(each, ProcessMemory)]
    stats = model.engine.stats()
    return {
        "host_peak_bytes": sum(each.peak_bytes for each in known) or None,
        "host_private_bytes": sum(each.anonymous_bytes for each in known) or None,
        "host_mapped_bytes": sum(each.file_bytes for each in known) or None,
        "device_peak_bytes": stats.device_peak_reserved_bytes,
        "device_reserved_bytes": stats.device_reserved_bytes,
        "device_allocated_bytes": stats.device_allocated_bytes,
        "weights_bytes": model.info.weights_bytes,
        "kv_cache_bytes": model.info.kv_cache_bytes,
    }


def measured_peaks(model: Model) -> Measured:
    """The peaks so far of this process and its children.

    On a GPU it is what NVML counts for them now, or the peak of torch's pool if that is more. Where
    NVML names no processes, as across a container's border, it is the pool and the CUDA context
    that is assumed: enough to see early that a service has grown, which was proven from outside.
    """
    pool = model.engine.stats().device_peak_reserved_bytes
    return _measured(tree_peak_bytes(os.getpid()), pool)


def look(model: Model) -> Footprint:
    """Everything, now."""
    stats = model.engine.stats()
    own = process_memory(os.getpid())
    others = [process_memory(pid) for pid in descendants(os.getpid())]
    known = [each for each in others if isinstance(each, ProcessMemory)]
    reserved, allocated = stats.device_reserved_bytes, stats.device_allocated_bytes
    unused = None if reserved is None or allocated is None else reserved - allocated
    if isinstance(own, Unavailable):
        parts = Parts(0, tensors=allocated, unused=unused)
        return Footprint(measured_peaks(model), _measured(own, reserved), parts)
    parts = Parts(
        private=own.anonymous_bytes,
        mapped=own.file_bytes,
        shared=own.shared_bytes,
        ranks=sum(each.anonymous_bytes + each.file_bytes + each.shared_bytes for each in known),
        tensors=allocated,
        unused=unused,
    )
    return Footprint(measured_peaks(model), _measured(parts.host_bytes, reserved), parts)


def _measured(host: int | Unavailable, pool_bytes: int | None) -> Measured:
    pid = os.getpid()
    held = nvml.processes_bytes({pid, *descendants(pid)})
    device, by = estimated_peak(held, pool_bytes)
    return Measured(host, device, "kernel", by)


logger = logging.getLogger("kit.serve")

# A breach is reported before the next scrape of Prometheus (every 5 s, monitoring/prometheus.yml).
CHECK_SECONDS = 2.0
_TIDY_EVERY, _TIDY_BYTES = 5, 16 * MIB
"""Looks between two times that memory is tidied up, and how much more than at first is worth it."""
OnBreach = Literal["unready", "report"]
"""Whether a service over its budget stops answering until it is within it again."""


def read_on_breach(text: str) -> OnBreach:
    """The value of ``KIT_ON_BREACH``.

    Raises:
        UsageError: it is neither.
    """
    for known in get_args(OnBreach):
        if text == known:
            return known  # type: ignore[no-any-return]
    raise UsageError(
        f"KIT_ON_BREACH is {text!r}", hint="set it to unready, or to report, which goes on serving"
    )


class BudgetWatch:
    """Reports a service that holds more than its budget, once what can be given back has been.

    It is over its budget while the figures of now are: the breach ends by itself. A peak that has
    passed without being seen is reported, once. A figure that cannot be measured is no breach. The
    process goes on in any case: whoever restarts what is unhealthy does not load a model again and
    again that does not fit.

    Args:
        budget: what was promised.
        readiness: learns of a breach and of its end.
        look: measures.
        give_back: frees what nobody needs; called when it is over the budget.
        tidy: frees what costs nothing to free; called now and then while it holds more than first.
        on_breach: ``report`` leaves the service ready.
        check_seconds: between two looks.
    """

    def __init__(
        self,
        budget: Budget,
        readiness: Readiness,
        look: Callable[[], Footprint],
        *,
        give_back: Callable[[], None] = lambda: None,
        tidy: Callable[[], None] = lambda: None,
        on_breach: OnBreach = "unready",
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        self._budget, self._readiness, self._look = budget, readiness, look
        self._give_back, self._tidy, self._on_breach = give_back, tidy, on_breach
        self._looks = 0
        self._check_seconds = check_seconds
        self._first: Parts | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="budget", daemon=True)

    def start(self) -> None:
        """Begin to look, in a thread of its own; nothing promised, nothing to do."""
        if self._budget != Budget():
            self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()

    def check(self) -> None:
        """Look once, and report a breach that begins or ends."""
        seen = self._look()
        self._first = self._first or seen.parts
        self._looks += 1
        grown = seen.parts.private - self._first.private
        if grown > _TIDY_BYTES and self._looks % _TIDY_EVERY == 0:
            self._tidy()
        if self._over(seen):
            self._give_back()
            seen = self._look()
        over = self._over(seen)
        if over:
            self._begin(over, seen.parts)
        elif self._readiness.breach is not None:
            self._readiness.breach = None
            logger.warning("memory budget: within it again")
        for verdict in assess(self._budget, seen.peaks):
            if isinstance(verdict.peak_bytes, int) and not verdict.passed:
                self._passed(verdict)

    def _run(self) -> None:
        while not self._ended.wait(self._check_seconds):
            try:
                self.check()
            except Exception:  # whatever /proc or a driver does, the next look may succeed
                logger.exception("memory budget: it could not be looked at")

    def _over(self, seen: Footprint) -> list[Verdict]:
        now = assess(self._budget, seen.now)
        return [each for each in now if isinstance(each.peak_bytes, int) and not each.passed]

    def _begin(self, over: Sequence[Verdict], parts: Parts) -> None:
        grown = parts.growth_since(self._first or parts)
        error = "; ".join(map(_now, over)) + (f". Since it was ready: {grown}" if grown else "")
        flags = " and ".join(verdict.pool.flag for verdict in over)
        breach = Breach(
            error,
            f"ask for less (--context, --max-sequences), or allow more with {flags}",
            BudgetExceeded.exit_code,
            ends_readiness=self._on_breach == "unready",
        )
        if self._readiness.breach is None:
            then = "not ready until that ends" if breach.ends_readiness else "it goes on serving"
            logger.error("memory budget: %s; %s", error, then)
        self._readiness.breach = breach

    def _passed(self, verdict: Verdict) -> None:
        if verdict.pool.label not in self._readiness.passed:
            self._readiness.passed[verdict.pool.label] = str(verdict)
            logger.warning("memory budget: %s", verdict)


def _now(verdict: Verdict) -> str:
    assert isinstance(verdict.peak_bytes, int)  # noqa: S101  (it is over its budget)
    over = format_gib(verdict.peak_bytes - verdict.budget_bytes)
    return (
        f"{verdict.pool.label} is {format_gib(verdict.peak_bytes)}, {over} over the budget of "
        f"{format_gib(verdict.budget_bytes)}"
    )
