"""A timeline: what a service held of memory from its start on, sample by sample, as JSON lines.

The first line describes the run, every other one is a sample::

    {"kind": "timeline", "version": 1, "model": …, "engine": …, "device": …, "started": "2026-…",
     "planned_bytes": {"host": …}, "budget_bytes": {"host": …}, "plan": [{"name": …, …}, …]}
    {"seconds": 0.1, "phase": "weights", "private_bytes": …, "mapped_bytes": …, …}

Every line is whole by itself: a file that was cut short by a crash is read up to there.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from kit.errors import EnvironmentNotReady, IntegrityError
from kit.memory.plan.line import Plan, Pool
from kit.records import parse_object

VERSION = 1


@dataclass(frozen=True)
class Sample:
    """What the service's processes held at one moment.

    Attributes:
        seconds: since the timeline began.
        phase: as the service tells it: ``starting``, then those of its engine such as
            ``weights``, ``kv-cache`` and ``warm-up``, then ``serving``; or what was asked of it
            meanwhile, ``prefill`` and ``decode``.
        private_bytes: resident and not backed by a file (RssAnon), all processes together.
        shared_bytes: shared memory (RssShmem).
        mapped_bytes: resident pages of files (RssFile), which the kernel can drop.
        peak_bytes: highest resident set so far (VmHWM).
        device_bytes: of the GPU, by NVML, CUDA context included; None: no GPU, or not told.
        pool_bytes: what torch's pool has reserved of it, as the service tells.
    """

    seconds: float
    phase: str
    private_bytes: int
    shared_bytes: int
    mapped_bytes: int
    peak_bytes: int
    device_bytes: int | None = None
    pool_bytes: int | None = None

    @property
    def host_bytes(self) -> int:
        """Resident memory."""
        return self.private_bytes + self.shared_bytes + self.mapped_bytes


@dataclass(frozen=True)
class PlannedLine:
    """A line of the plan, as far as a picture and an explanation need it."""

    name: str
    pool: str
    phases: tuple[str, ...]
    size_bytes: int


@dataclass(frozen=True)
class Run:
    """What a timeline is of.

    Attributes:
        started: local time with its zone, ISO 8601.
        planned_bytes, budget_bytes: by pool, ``host`` and ``device``; a pool without one is absent.
    """

    model: str
    engine: str
    device: str
    started: str
    planned_bytes: Mapping[str, int]
    budget_bytes: Mapping[str, int]
    plan: tuple[PlannedLine, ...]


@dataclass(frozen=True)
class Timeline:
    """A run and its samples in their order."""

    run: Run
    samples: tuple[Sample, ...]

    def spans(self) -> tuple[tuple[str, float, float], ...]:
        """The phases in their order: (name, from, to) in seconds; the same name may come again."""
        spans: list[tuple[str, float, float]] = []
        for sample in self.samples:
            if spans and spans[-1][0] == sample.phase:
                spans[-1] = (sample.phase, spans[-1][1], sample.seconds)
            else:
                if spans:
                    spans[-1] = (*spans[-1][:2], sample.seconds)
                spans.append((sample.phase, sample.seconds, sample.seconds))
        return tuple(spans)

    def peak(self, pool: Pool) -> Sample | None:
        """The sample in which ``pool`` held the most; None: it was never measured."""
        if pool is Pool.DEVICE:
            known = [sample for sample in self.samples if sample.device_bytes is not None]
            return max(known, key=lambda sample: sample.device_bytes or 0, default=None)
        return max(self.samples, key=lambda sample: sample.host_bytes, default=None)


def planned_lines(plan: Plan) -> tuple[PlannedLine, ...]:
    """The lines of ``plan`` for a timeline."""
    return tuple(
        PlannedLine(line.name, line.pool.value, tuple(line.phases), line.size_bytes)
        for line in plan.lines
    )


class TimelineWriter:
    """Appends samples to a file that can be read at any moment."""

    def __init__(self, file: IO[str], run: Run) -> None:
        self._file = file
        self._write({"kind": "timeline", "version": VERSION, **asdict(run)})

    def add(self, sample: Sample) -> None:
        """Write one sample."""
        self._write(asdict(sample))

    def _write(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()


def read_timeline(path: Path) -> Timeline:
    """Read a timeline; a last line that was cut off is left out.

    Raises:
        EnvironmentNotReady: there is no such file.
        IntegrityError: it is not a timeline, or of a newer version.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentNotReady(
            f"{path} cannot be read: {error}", hint="record one: kit memory watch"
        ) from error
    try:
        head, *rest = _whole(lines)
        return Timeline(_run(head), tuple(Sample(**sample) for sample in rest))
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{path} is not a timeline that this version reads",
            hint="record a new one: kit memory watch",
        ) from error


def _whole(lines: list[str]) -> Iterable[dict[str, Any]]:
    for index, line in enumerate(lines):
        try:
            yield parse_object(line)
        except ValueError:
            if index + 1 < len(lines):
                raise
            return


def _run(head: dict[str, Any]) -> Run:
    if head.pop("kind") != "timeline" or head.pop("version") != VERSION:
        raise ValueError("not a timeline")
    lines = tuple(
        PlannedLine(**{**line, "phases": tuple(line["phases"])}) for line in head.pop("plan")
    )
    return Run(plan=lines, **head)
