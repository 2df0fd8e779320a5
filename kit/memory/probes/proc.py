"""Memory of processes and of the machine, from Linux's /proc (see proc(5))."""

import re
import resource
from dataclasses import dataclass
from pathlib import Path

from kit.memory.unavailable import Unavailable
from kit.units import KIB

PROC = Path("/proc")


@dataclass(frozen=True)
class ProcessMemory:
    """Memory of one process in bytes.

    Attributes:
        peak_bytes: highest resident set so far (VmHWM), memory-mapped file pages included.
        anonymous_bytes: private memory resident now (RssAnon).
        file_bytes: memory-mapped file pages resident now (RssFile); the kernel can drop them.
        shared_bytes: shared memory resident now (RssShmem).
        address_space_peak_bytes: highest virtual size so far (VmPeak): what RLIMIT_AS limits.
    """

    peak_bytes: int
    anonymous_bytes: int
    file_bytes: int
    shared_bytes: int
    address_space_peak_bytes: int


_FIELDS = ("VmHWM", "RssAnon", "RssFile", "RssShmem", "VmPeak")


def process_memory(pid: int, *, proc: Path = PROC) -> ProcessMemory | Unavailable:
    """Memory of process ``pid``; unavailable when it has ended or the system has no /proc."""
    figures = _kib_figures(proc / str(pid) / "status")
    if isinstance(figures, Unavailable):
        return figures
    if missing := [name for name in _FIELDS if name not in figures]:
        return Unavailable(f"/proc/{pid}/status has no {missing[0]} (the process has ended)")
    return ProcessMemory(*(figures[name] for name in _FIELDS))


def tree_peak_bytes(pid: int, *, proc: Path = PROC) -> int | Unavailable:
    """Sum of the resident peaks of ``pid`` and all its descendants.

    An upper bound for several processes: their peaks need not coincide, shared pages count twice.
    """
    root = process_memory(pid, proc=proc)
    if isinstance(root, Unavailable):
        return root
    others = (process_memory(child, proc=proc) for child in descendants(pid, proc=proc))
    return root.peak_bytes + sum(m.peak_bytes for m in others if isinstance(m, ProcessMemory))


def descendants(pid: int, *, proc: Path = PROC) -> tuple[int, ...]:
    """Process ids of the children of ``pid``, their children, and so on."""
    parents: dict[int, int] = {}
    for folder in proc.glob("[0-9]*"):
        stat = process_stat(int(folder.name), proc=proc)
        if not isinstance(stat, Unavailable):
            parents[int(folder.name)] = stat.parent
    found: list[int] = []
    wave = [pid]
    while wave:
        wave = [child for child, parent in parents.items() if parent in wave]
        found += wave
    return tuple(found)


@dataclass(frozen=True)
class ProcessStat:
    """Who a process is. ``(pid, start_ticks)`` names it even after the pid is used again.

    Attributes:
        state: one letter; Z is a zombie: ended, but not yet waited for by its parent.
        parent: process id of the parent.
        start_ticks: clock ticks between the machine's boot and the process's start.
        cpu_ticks: clock ticks that its threads have run, in the kernel too.
    """

    state: str
    parent: int
    start_ticks: int
    cpu_ticks: int = 0


def process_stat(pid: int, *, proc: Path = PROC) -> ProcessStat | Unavailable:
    """State, parent and start time of ``pid``; unavailable when it has ended."""
    try:
        text = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return Unavailable(f"no process {pid} ({error.strerror})")
    after_name = text.rpartition(")")[2].split()  # the name may hold spaces and parentheses
    cpu_ticks = int(after_name[11]) + int(after_name[12])
    return ProcessStat(after_name[0], int(after_name[1]), int(after_name[19]), cpu_ticks)


def available_ram_bytes(*, proc: Path = PROC) -> int | Unavailable:
    """RAM that programs can take without swapping (MemAvailable): free, or cache to be dropped."""
    figures = _kib_figures(proc / "meminfo")
    if isinstance(figures, Unavailable):
        return figures
    return figures.get("MemAvailable", Unavailable("/proc/meminfo has no MemAvailable"))


def total_ram_bytes(*, proc: Path = PROC) -> int | Unavailable:
    """The machine's RAM, less what the kernel itself keeps (MemTotal)."""
    figures = _kib_figures(proc / "meminfo")
    if isinstance(figures, Unavailable):
        return figures
    return figures.get("MemTotal", Unavailable("/proc/meminfo has no MemTotal"))


def address_space_limit_bytes() -> int | None:
    """This process's soft RLIMIT_AS (``ulimit -v``), which its children inherit; None: no limit."""
    return _soft_limit(resource.RLIMIT_AS)


def data_limit_bytes() -> int | None:
    """The same of RLIMIT_DATA (``ulimit -d``): heap, private pages, privately mapped files."""
    return _soft_limit(resource.RLIMIT_DATA)


def commit_free_bytes(*, proc: Path = PROC) -> int | Unavailable | None:
    """What the kernel still promises to programs; None: it promises more than it has.

    With vm.overcommit_memory=2 it counts what they ask for, used or not (proc_sys_vm(5)).
    """
    try:
        strict = (proc / "sys/vm/overcommit_memory").read_text().strip() == "2"
    except OSError:
        return None
    if not strict:
        return None
    figures = _kib_figures(proc / "meminfo")
    if isinstance(figures, Unavailable):
        return figures
    return max(0, figures.get("CommitLimit", 0) - figures.get("Committed_AS", 0))


def _soft_limit(kind: int) -> int | None:
    soft, _ = resource.getrlimit(kind)
    return None if soft == resource.RLIM_INFINITY else soft


def _kib_figures(path: Path) -> dict[str, int] | Unavailable:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return Unavailable(f"{path} cannot be read ({error.strerror})")
    found = re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)
    return {name: int(kib) * KIB for name, kib in found}
