"""Where a peak came from, in words and numbers."""

from kit.memory.plan.line import Pool
from kit.memory.timeline import PlannedLine, Sample, Timeline
from kit.units import MIB, format_gib

TOLERANCE = 0.10
"""How far a measured peak may lie from the plan, either way, before that is remarked on."""

_NOTHING_BYTES = MIB
"""Less than that is not worth a word."""
_SERVING = {"warm-up", "serving", "prefill", "decode", "stopping", "failed"}
"""Phases in which all is held that the plan knows; in any other it is loading."""


def explain(timeline: Timeline) -> tuple[str, ...]:
    """Paragraphs of one line each, for every pool that was measured."""
    lines = [_about(timeline)]
    for pool in (Pool.HOST, Pool.DEVICE):
        if (peak := timeline.peak(pool)) is not None:
            lines += _explain_pool(timeline, pool, peak)
    return tuple(lines)


def ratio_remark(peak_bytes: int, planned_bytes: int) -> str:
    """How the peak relates to the plan."""
    ratio = peak_bytes / planned_bytes
    size = format_gib(abs(peak_bytes - planned_bytes))
    if abs(ratio - 1) <= TOLERANCE:
        return f"{ratio:.2f} of the plan, within its tolerance of {TOLERANCE:.0%}"
    word = "over" if ratio > 1 else "under"
    return f"{ratio:.2f} of the plan: {size} {word}, more than its tolerance of {TOLERANCE:.0%}"


def _about(timeline: Timeline) -> str:
    run, samples = timeline.run, timeline.samples
    seconds = samples[-1].seconds if samples else 0.0
    return (
        f"{run.model}, {run.engine} engine on {run.device}: {len(samples)} samples in "
        f"{seconds:.1f} s from {run.started}"
    )


def _explain_pool(timeline: Timeline, pool: Pool, peak: Sample) -> list[str]:
    size = _size(peak, pool)
    reached = next(s for s in timeline.samples if _size(s, pool) > size - _NOTHING_BYTES)
    lines = [
        f"{pool.label}: the most at once was {format_gib(size)}, reached after "
        f"{reached.seconds:.1f} s, phase {reached.phase}"
    ]
    if pool is Pool.HOST:
        shared = f", {format_gib(peak.shared_bytes)} shared" if peak.shared_bytes else ""
        lines.append(
            f"  of it {format_gib(peak.private_bytes)} private{shared}, "
            f"{format_gib(peak.mapped_bytes)} of mapped files, which the kernel can drop"
        )
    elif peak.pool_bytes is not None:
        lines.append(
            f"  of it {format_gib(peak.pool_bytes)} in torch's pool, "
            f"{format_gib(max(0, size - peak.pool_bytes))} CUDA context and kernels"
        )
    lines += [f"  {line}" for line in _phases(timeline, pool)]
    lines += [f"  {line}" for line in _plan(timeline, pool, peak, size)]
    return lines


def _phases(timeline: Timeline, pool: Pool) -> list[str]:
    """The most that the first phase held, and what every later one added to it."""
    lines: list[str] = []
    before = 0
    for phase, begin, end in timeline.spans():
        inside = [s for s in timeline.samples if s.phase == phase and begin <= s.seconds <= end]
        most = max((_size(s, pool) for s in inside), default=0)
        if most - before >= _NOTHING_BYTES:
            added = f", {format_gib(most - before)} more" if before else ""
            lines.append(f"{phase:<10} up to {format_gib(most)}{added}")
            before = most
    return lines


def _plan(timeline: Timeline, pool: Pool, peak: Sample, size: int) -> list[str]:
    planned = timeline.run.planned_bytes.get(pool.value)
    lines = []
    if planned:
        lines.append(f"planned {format_gib(planned)}; measured {ratio_remark(size, planned)}")
        phase = "serve" if peak.phase in _SERVING else "load"
        for line in sorted(_held(timeline, pool, phase), key=lambda one: -one.size_bytes):
            lines.append(f"  plan: {line.name:<18} {format_gib(line.size_bytes):>10}")
    if budget := timeline.run.budget_bytes.get(pool.value):
        left = budget - size
        state = f"{format_gib(left)} below" if left >= 0 else f"{format_gib(-left)} OVER"
        lines.append(f"budget {format_gib(budget)}: {state}")
    return lines


def _held(timeline: Timeline, pool: Pool, phase: str) -> list[PlannedLine]:
    return [one for one in timeline.run.plan if one.pool == pool.value and phase in one.phases]


def _size(sample: Sample, pool: Pool) -> int:
    return (sample.device_bytes or 0) if pool is Pool.DEVICE else sample.host_bytes
