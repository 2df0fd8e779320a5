"""A receipt: the JSON evidence of one measured run. ``docs/receipt.schema.json`` describes it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from kit.errors import EnvironmentNotReady
from kit.memory.budget import MeasuredBy, Verdict
from kit.memory.timeline import Timeline
from kit.memory.unavailable import Unavailable

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
