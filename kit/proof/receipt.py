"""A receipt: the JSON evidence of one measured run. ``docs/receipt.schema.json`` describes it."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from kit.errors import EnvironmentNotReady
from kit.memory.budget import MeasuredBy, Verdict
from kit.memory.plan.line import Plan, Pool
from kit.memory.timeline import Run, Timeline, planned_lines
from kit.memory.unavailable import Unavailable
from kit.runtime.protocol import ServeSpec

VERSION = 1
Outcome = Literal["held", "breached", "unmeasured"]


@dataclass(frozen=True)
class MeasuredModel:
    """What was served.

    Attributes:
        dtype: as the server tells it, such as ``bfloat16`` or ``int8 (bfloat16)``.
        digests: what the weights are: of each source file of the conversion, as ``sha256:…`` or
            ``blake3:…``, by name; empty where the directory has no conversion record.
    """

    name: str
    dtype: str
    weights_bytes: int
    digests: Mapping[str, str]


@dataclass(frozen=True)
class MeasuredService:
    """What served it, and how.

    Attributes:
        context_length: tokens of prompt and answer together, per sequence.
        image, image_digest: of the container; None for a local process.
        upstream_commit, rewrite_digest: of the vendored upstream, where it is the engine.
    """

    engine: str
    runtime: str
    device: str
    context_length: int
    max_sequences: int
    kit_version: str
    torch: str | None
    image: str | None = None
    image_digest: str | None = None
    upstream_commit: str | None = None
    rewrite_digest: str | None = None


@dataclass(frozen=True)
class MeasuredMachine:
    """Where it ran. The GPU's fields are None without one; ``simulated``: it is a pretended one."""

    system: str
    cpus: int
    ram_bytes: int | None
    gpu: str | None = None
    gpu_bytes: int | None = None
    gpu_capability: str | None = None
    driver: str | None = None
    simulated: bool = False


@dataclass(frozen=True)
class MeasuredWork:
    """What the service was made to do before its peak was read.

    Attributes:
        sequences: at once.
        prompt_tokens, generated_tokens: of each of them; together they fill the context.
    """

    sequences: int
    prompt_tokens: int
    generated_tokens: int
    seconds: float


@dataclass(frozen=True)
class PoolResult:
    """One pool's figures, all in bytes.

    Attributes:
        peak_bytes: None where it could not be measured; ``unavailable`` then says why.
        measured_by: how the peak is known; None: it is not, or the service had ended.
        of_plan: peak by plan.
    """

    planned_bytes: int
    peak_bytes: int | None
    unavailable: str | None
    budget_bytes: int
    passed: bool
    of_plan: float | None
    measured_by: MeasuredBy | None = None

    @classmethod
    def of(cls, verdict: Verdict, planned_bytes: int) -> "PoolResult":
        """The result that ``verdict`` gives."""
        peak = verdict.peak_bytes
        if isinstance(peak, Unavailable):
            budget = verdict.budget_bytes
            return cls(planned_bytes, None, peak.reason, budget, verdict.passed, None)
        ratio = round(peak / planned_bytes, 4) if planned_bytes else None
        budget, by = verdict.budget_bytes, verdict.measured_by
        return cls(planned_bytes, peak, None, budget, verdict.passed, ratio, by)


@dataclass(frozen=True)
class PhaseResult:
    """The most that one phase held, in bytes."""

    phase: str
    seconds: float
    host_bytes: int
    device_bytes: int | None


@dataclass(frozen=True)
class Receipt:
    """One measured run.

    Attributes:
        date: local time with its zone, ISO 8601.
        pools: by name, ``host`` and ``device``; only those that were promised.
        phases: in their order.
        work: None where the service was only loaded and asked one question.
        while_serving: what the service itself had reported of its budget by then, a sentence each.
    """

    date: str
    model: MeasuredModel
    service: MeasuredService
    machine: MeasuredMachine
    work: MeasuredWork | None
    pools: Mapping[str, PoolResult]
    phases: Sequence[PhaseResult]
    while_serving: Sequence[str] = ()

    @property
    def outcome(self) -> Outcome:
        """Whether what was promised held. What could not be measured did not."""
        if any(pool.peak_bytes is None for pool in self.pools.values()):
            return "unmeasured"
        held = all(pool.passed for pool in self.pools.values())
        return "held" if held else "breached"

    def record(self) -> dict[str, Any]:
        """The receipt as JSON."""
        head = {"kind": "memory-receipt", "version": VERSION, "outcome": self.outcome}
        return head | asdict(self)


def phase_results(timeline: Timeline) -> tuple[PhaseResult, ...]:
    """The most that each phase of ``timeline`` held."""
    results = []
    for phase, begin, end in timeline.spans():
        inside = [s for s in timeline.samples if s.phase == phase and begin <= s.seconds <= end]
        device = [s.device_bytes for s in inside if s.device_bytes is not None]
        host_bytes = max(sample.host_bytes for sample in inside)
        seconds = round(end - begin, 3)
        results.append(PhaseResult(phase, seconds, host_bytes, max(device, default=None)))
    return tuple(results)


def write_receipt(path: Path, receipt: Receipt) -> None:
    """Write a receipt; equal ones give equal bytes.

    Raises:
        EnvironmentNotReady: it cannot be written.
    """
    text = json.dumps(receipt.record(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise EnvironmentNotReady(
            f"the receipt cannot be written: {path}: {error.strerror}",
            hint="name another place with --receipt",
        ) from error


RECEIPTS, TIMELINES = "receipts", "timelines"
"""Of runs that were checked against their budget, and of those that were only watched."""
KEPT = 20
"""Runs whose evidence stays in each of these folders."""
_OURS = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d-.+\.(json|jsonl|png|html)", re.DOTALL)
_UNSAFE = re.compile(r"[^\w.-]+")


def now() -> str:
    """Local time with its zone, ISO 8601."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def run_of(spec: ServeSpec, plan: Plan | None, started: str) -> Run:
    """What a timeline of ``spec`` is of."""
    pools = {Pool.HOST: spec.max_ram_bytes, Pool.DEVICE: spec.max_vram_bytes}
    planned = {pool.value: plan.peak_bytes(pool) for pool in pools} if plan else {}
    budget = {pool.value: size for pool, size in pools.items() if size is not None}
    return Run(
        model=spec.name,
        engine=spec.engine,
        device=spec.device,
        started=started,
        planned_bytes={pool: size for pool, size in planned.items() if size},
        budget_bytes=budget,
        plan=planned_lines(plan) if plan else (),
    )


def new_path(state_dir: Path, folder: str, run: Run, suffix: str) -> Path:
    """A name for evidence of ``run`` in ``folder`` of the state folder that is not taken.

    The oldest runs there are removed, so that ``KEPT`` stay, the new one among them.
    """
    _remove_oldest(state_dir / folder)
    stem = f"{run.started[:19].replace(':', '-')}-{_UNSAFE.sub('-', run.model)}"
    stem = os.fsdecode(stem.encode("utf-8", "surrogateescape"))  # the same bytes in every locale
    path, count = state_dir / folder / f"{stem}{suffix}", 1
    while path.exists():
        count += 1
        path = path.with_name(f"{stem}-{count}{suffix}")
    return path


def _remove_oldest(folder: Path) -> None:
    """All files of the runs that were written to the longest ago; other files are left alone."""
    runs: dict[str, list[tuple[int, Path]]] = {}
    with suppress(OSError):  # what cannot be removed stays
        for path in folder.iterdir():
            if _OURS.fullmatch(path.name):
                written = (path.stat().st_mtime_ns, path)
                runs.setdefault(path.name.removesuffix(path.suffix), []).append(written)
        by_age = sorted(runs.values(), key=max, reverse=True)
        for _, path in (file for run in by_age[KEPT - 1 :] for file in run):
            path.unlink()


def latest_timeline(state_dir: Path) -> Path:
    """The newest timeline that is kept.

    Raises:
        EnvironmentNotReady: there is none.
    """
    found = [path for name in (RECEIPTS, TIMELINES) for path in (state_dir / name).glob("*.jsonl")]
    if not found:
        raise EnvironmentNotReady(
            f"no timeline is kept in {state_dir}",
            hint="record one: kit memory watch; or kit memory assert",
        )
    return max(found, key=lambda path: path.stat().st_mtime_ns)
