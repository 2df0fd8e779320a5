"""Measuring one job in a process of its own: time, CPU, growth of memory, page cache of its files.

The process imports what it needs, says that it is ready and waits; then the job runs while the
parent samples from outside. Growth is anonymous plus shared memory over the imported interpreter:
shared, because Python's anonymous ``mmap`` is shared memory and would hide otherwise.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from kit.errors import KitError
from kit.memory.probes.nvml import processes_bytes
from kit.memory.probes.pagecache import cached_bytes
from kit.memory.probes.proc import process_memory
from kit.memory.unavailable import Unavailable
from kit.records import parse_object

# Fifty looks a second: a small model loads in well under one.
SAMPLE_SECONDS = 0.02


@dataclass(frozen=True)
class Measured:
    """What one job took.

    Attributes:
        seconds: wall time.
        cpu_seconds: the process's own, user and system.
        growth_bytes: peak of its anonymous and shared memory over what it had before the job.
        device_bytes: peak of what NVML counts for it on all GPUs, its CUDA context included;
            None where nobody asked.
        facts: what the process says of the job itself.
        cached_bytes: peak of the page cache of the files under the watched folder.
        other_cpu_seconds: what everything else on the machine used meanwhile.
        steal_seconds: what the hypervisor kept from the machine meanwhile.
    """

    seconds: float
    cpu_seconds: float
    growth_bytes: int
    cached_bytes: int
    other_cpu_seconds: float
    steal_seconds: float
    device_bytes: int | Unavailable | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def run_job(
    job: Callable[[], object],
    facts: Callable[[], Mapping[str, Any]] = dict,
    out: TextIO | None = None,
) -> None:
    """The measured process's side: call it after the imports.

    Args:
        job: what is measured.
        facts: is asked afterwards what there is to say of it.
        out: where the measuring process listens; None is stdout, which the job itself then loses:
            what it prints goes to stderr.
    """
    if out is None:
        out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
    print("ready", file=out, flush=True)
    sys.stdin.readline()
    wall, cpu = time.perf_counter(), time.process_time()
    job()
    took = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    print(json.dumps({**took, "facts": facts()}), file=out, flush=True)


def measure(
    command: Sequence[str],
    folder: Path,
    *,
    environ: Mapping[str, str] | None = None,
    watch_device: bool = False,
) -> Measured:
    """Start ``command``, which calls ``run_job``, and watch it and the files under ``folder``.

    Args:
        environ: of the process; None: this one's.
        watch_device: ask NVML for its memory, too.

    Raises:
        KitError: the process failed; what it wrote to stderr is shown there.
    """
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
    ) as process:
        assert process.stdin and process.stdout  # noqa: S101  (both are pipes)
        if process.stdout.readline() != "ready\n":
            raise _failed(command, process.wait())
        before, machine = _private_bytes(process.pid), _machine_seconds()
        process.stdin.write("go\n")
        process.stdin.flush()
        peak, cached = before, 0
        held: list[int | Unavailable] = []
        while not select.select([process.stdout], [], [], SAMPLE_SECONDS)[0]:
            peak = max(peak, _private_bytes(process.pid))
            cached = max(cached, folder_cached_bytes(folder))
            if watch_device:
                held.append(processes_bytes({process.pid}))
        answer = process.stdout.readline()
        busy, steal = (now - then for now, then in zip(_machine_seconds(), machine, strict=True))
    if process.returncode or not answer:
        raise _failed(command, process.returncode)
    took = parse_object(answer)
    return Measured(
        **took,
        growth_bytes=peak - before,
        cached_bytes=cached,
        other_cpu_seconds=max(0.0, busy - took["cpu_seconds"]),
        steal_seconds=steal,
        device_bytes=_highest(held) if watch_device else None,
    )


def folder_cached_bytes(folder: Path) -> int:
    """Page cache of all files under ``folder``; what vanishes meanwhile counts nothing."""
    paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    found = (cached_bytes(path) for path in paths)
    return sum(value for value in found if not isinstance(value, Unavailable))


def _highest(held: Sequence[int | Unavailable]) -> int | Unavailable:
    """The peak of the samples that are known; why there is none, where there is none."""
    if known := [size for size in held if isinstance(size, int)]:
        return max(known)
    return next((size for size in held if isinstance(size, Unavailable)), Unavailable("too short"))


def _private_bytes(pid: int) -> int:
    memory = process_memory(pid)
    return 0 if isinstance(memory, Unavailable) else memory.anonymous_bytes + memory.shared_bytes


def _machine_seconds() -> tuple[float, float]:
    """Busy and stolen CPU time of the machine since its start (proc_stat(5))."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    ticks = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / ticks, steal / ticks


def _failed(command: Sequence[str], code: int) -> KitError:
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return KitError(
        f"the measured process failed, {how}: {' '.join(command)}",
        hint="see its messages above",
    )
