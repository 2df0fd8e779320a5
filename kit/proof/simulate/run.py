"""One path of serving, simulated in a process of its own, and its result.

Usage: python -m kit.proof.simulate.run JSON; see :class:`Job`. Upstream keeps its state in globals,
and the simulation bends torch: neither belongs into a process that does anything else.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kit.checkpoint.layout import Dimensions
from kit.errors import EnvironmentNotReady, UsageError
from kit.memory.plan.allocator import Allocator
from kit.memory.plan.line import Engine
from kit.memory.plan.shape import Architecture, Precision
from kit.proof.simulate.files import write_checkpoint, write_converted
from kit.proof.simulate.ledger import Ledger, Moment, Stage
from kit.serve.megatron.folder import DType
from kit.serve.megatron.launch import environment
from kit.settings import Settings
from kit.upstream.render import MEGATRON, render, write_rendered
from kit.upstream.selection import select
from kit.upstream.tree import pinned, read_pristine

ENGINES: tuple[Engine, ...] = ("stock", "cpu-first", "megatron", "native")
_DTYPES: dict[str, DType] = {"bf16": "bfloat16", "fp32": "float32"}
_REWRITES: dict[Engine, tuple[str, ...] | None] = {
    "stock": ("portability",),
    "cpu-first": ("portability", "loading-cpu-first"),
    "megatron": None,
}
"""Groups of rewrites; None: those that `kit upstream render` makes by default."""
_MOMENTS = 400
"""Points of a stage's timeline that are kept: more than a picture shows."""
_ERROR_LINES = 5
_POOL = "PYTORCH_CUDA_ALLOC_CONF"


@dataclass(frozen=True)
class Job:
    """What is simulated.

    Attributes:
        tree: upstream's rewritten ``deepspeed-megatron``; None for the native engine.
        context: tokens of prompt and answer together.
    """

    engine: Engine
    model: Architecture
    precision: Precision
    context: int
    max_sequences: int
    tree: str | None = None


@dataclass(frozen=True)
class Simulated:
    """What one path took, all figures without CUDA's context and what libraries hold.

    Attributes:
        moments: the timeline.
        peaks: the most of each figure, by stage.
        kernels: operations of a decode step that launch one.
        bytes_moved: read and written by them on the GPU.
        reads: values that the host waits for in a decode step, by the line that asks.
    """

    job: Job
    moments: tuple[Moment, ...]
    peaks: tuple[Moment, ...]
    kernels: int
    bytes_moved: int
    reads: dict[str, int]

    def reserved_bytes(self, stages: Sequence[Stage]) -> int:
        """The most that torch's pool of the GPU's memory held in any of the stages."""
        return max((most.reserved_bytes for most in self.peaks if most.stage in stages), default=0)

    def host_bytes(self, stages: Sequence[Stage]) -> int:
        """The most that tensors and pinned memory took of the host."""
        return max((most.host_bytes for most in self.peaks if most.stage in stages), default=0)


def make_trees(engines: Sequence[Engine], folder: Path) -> dict[Engine, Path]:
    """Upstream, rewritten below ``folder`` for each of the engines that are its code.

    Raises:
        EnvironmentNotReady: `kit upstream fetch` comes first.
        IntegrityError: the pristine tree has drifted.
    """
    settings = Settings.from_environ()
    wanted = [engine for engine in engines if engine != "native"]
    pristine = read_pristine(settings) if wanted else {}
    trees: dict[Engine, Path] = {}
    for engine in wanted:
        write_rendered(
            render(pristine, select(_REWRITES[engine]), pinned(settings)), folder / engine
        )
        trees[engine] = folder / engine / MEGATRON
    return trees


def simulate(job: Job) -> Simulated:
    """Simulate in this process, which should end then.

    Raises:
        UsageError: the engine does not know the precision, or so many sequences.
        EnvironmentNotReady: this build of torch cannot.
    """
    require_known(job)
    ledger = Ledger(Allocator(expandable="expandable_segments:True" in os.environ.get(_POOL, "")))
    with tempfile.TemporaryDirectory(prefix="kit-simulate-") as folder:
        files = Path(folder) / "model"
        if job.engine == "native":
            from kit.proof.simulate.native import run_native

            write_converted(files, job.model, job.precision)
            step = run_native(ledger, files, context=job.context, max_sequences=job.max_sequences)
        else:
            from kit.proof.simulate.upstream import run_upstream

            assert job.tree is not None  # noqa: S101  (require_known has seen it)
            write_checkpoint(files, job.model)
            step = run_upstream(
                ledger,
                Path(job.tree),
                files,
                context=job.context,
                dtype=_DTYPES[job.precision],
                in_chunks=job.engine == "megatron",
            )
    return Simulated(
        job,
        _thinned(ledger.moments),
        tuple(ledger.peaks.values()),
        step.kernels,
        step.bytes_moved,
        dict(step.reads),
    )


def simulate_apart(job: Job) -> Simulated:
    """The same in a process of its own.

    Raises:
        EnvironmentNotReady: it failed; its last lines are in the message.
    """
    done = subprocess.run(
        [sys.executable, "-m", "kit.proof.simulate.run", json.dumps(asdict(job))],
        env=_environment(job.engine),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = "\n".join(done.stderr.rstrip().splitlines()[-_ERROR_LINES:])
        raise EnvironmentNotReady(
            f"the simulation of {job.engine} failed:\n{last}",
            hint="KIT_UPSTREAM_TREE may hold another upstream; kit upstream verify tells",
        )
    return _simulated(json.loads(done.stdout))


def _environment(engine: Engine) -> dict[str, str]:
    """What the path is started with. Its own launch script sets no option of torch's pool."""
    environ = environment(1, "cuda", os.environ)
    return environ if engine == "megatron" else {**environ, _POOL: os.environ.get(_POOL, "")}


def simulate_all(jobs: Sequence[Job]) -> list[Simulated]:
    """All of them, as many at a time as there are cores.

    Raises:
        EnvironmentNotReady: one failed.
    """
    for job in jobs:
        require_known(job)
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(simulate_apart, jobs))


def require_known(job: Job) -> None:
    """Raises UsageError where the engine does not know the precision, or so many sequences."""
    if job.engine == "native":
        return
    if job.precision not in _DTYPES:
        raise UsageError(
            f"upstream's code does not know {job.precision} weights",
            hint="simulate --engine native, or --precision bf16 or fp32",
        )
    if job.max_sequences != 1:
        raise UsageError(
            "upstream's code generates one answer at a time",
            hint="leave --max-sequences out, or simulate --engine native",
        )
    if job.tree is None:
        raise UsageError("upstream's code is not there", hint="kit upstream fetch")


def _thinned(moments: Sequence[Moment]) -> tuple[Moment, ...]:
    """Of many moments in a row the one that holds the most, stage by stage."""
    kept: list[Moment] = []
    for stage in Stage:
        of_stage = [moment for moment in moments if moment.stage is stage]
        size = -(-len(of_stage) // _MOMENTS) or 1
        for start in range(0, len(of_stage), size):
            group = of_stage[start : start + size]
            kept.append(max(group, key=lambda each: each.reserved_bytes + each.host_bytes))
    return tuple(kept)


def _simulated(record: dict[str, Any]) -> Simulated:
    moments, peaks = (
        tuple(Moment(**{**each, "stage": Stage(each["stage"])}) for each in record[name])
        for name in ("moments", "peaks")
    )
    return Simulated(**{**record, "job": _job(record["job"]), "moments": moments, "peaks": peaks})


def _job(record: dict[str, Any]) -> Job:
    model = dict(record["model"])
    model["dimensions"] = Dimensions(**model["dimensions"])
    return Job(**{**record, "model": Architecture(**model)})


def main() -> None:
    """Simulate what is asked for, and print it as JSON. Upstream's prints go to stderr."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        found = simulate(_job(json.loads(sys.argv[1])))
        out.write(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
