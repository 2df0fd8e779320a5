"""A timeline of numbers that are easy to follow: 1 s apart, host and device."""

from kit.memory.timeline import PlannedLine, Run, Sample, Timeline
from kit.units import GIB, MIB

RUN = Run(
    model="spark",
    engine="native",
    device="cuda:0",
    started="2026-01-02T03:04:05+00:00",
    planned_bytes={"host": 3 * GIB, "device": 28 * GIB},
    budget_bytes={"host": 4 * GIB, "device": 30 * GIB},
    plan=(
        PlannedLine("weights", "device", ("load", "serve"), 25 * GIB),
        PlannedLine("KV cache", "device", ("serve",), 2 * GIB),
        PlannedLine("runtime", "host", ("load", "serve"), 3 * GIB),
    ),
)


def sample(seconds: float, phase: str, host: int, device: int | None = None) -> Sample:
    """``host`` bytes, a quarter of them mapped; half a GiB of ``device`` outside the pool."""
    pool = None if device is None else device - 512 * MIB
    return Sample(seconds, phase, host * 3 // 4, 0, host // 4, host, device, pool)


TIMELINE = Timeline(
    RUN,
    (
        sample(0, "starting", GIB),
        sample(1, "weights", 2 * GIB, 10 * GIB),
        sample(2, "weights", 2 * GIB, 25 * GIB),
        sample(3, "prefill", 2 * GIB, 27 * GIB),
        sample(4, "decode", 2 * GIB, 27 * GIB),
    ),
)
