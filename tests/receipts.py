"""A receipt of numbers that are easy to follow."""

from kit.memory.budget import Verdict
from kit.memory.plan.line import Pool
from kit.memory.unavailable import Unavailable
from kit.proof.receipt import (
    MeasuredMachine,
    MeasuredModel,
    MeasuredService,
    MeasuredWork,
    PoolResult,
    Receipt,
    phase_results,
)
from kit.units import GIB
from tests.timelines import TIMELINE


def receipt(
    host: int | Unavailable = 2 * GIB, device: int | Unavailable | None = 27 * GIB
) -> Receipt:
    """Budgets are 4 and 30 GiB, plans 3 and 28; ``device`` None: the model ran on the CPU."""
    pools = {"host": PoolResult.of(Verdict(Pool.HOST, host, 4 * GIB), 3 * GIB)}
    if device is not None:
        verdict = Verdict(Pool.DEVICE, device, 30 * GIB)
        pools["device"] = PoolResult.of(verdict, 28 * GIB)
    return Receipt(
        date="2026-01-02T03:04:05+00:00",
        model=MeasuredModel("spark", "bfloat16", 25 * GIB, {"a.pt": "sha256:" + "0" * 64}),
        service=MeasuredService("native", "local", "cuda:0", 4096, 1, "0.1.0", "2.13.0"),
        machine=MeasuredMachine("Linux 6.1 x86_64", 16, 64 * GIB, "H100", 80 * GIB, "9.0", "580"),
        work=MeasuredWork(1, 4000, 96, 12.5),
        pools=pools,
        phases=phase_results(TIMELINE),
    )
