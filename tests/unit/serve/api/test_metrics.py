"""Of a model on a GPU, which there is none of here."""

from types import SimpleNamespace

from kit.memory.budget import Budget
from kit.memory.plan.native import CUDA_CONTEXT_BYTES
from kit.serve.api.metrics import Metrics
from kit.units import GIB

STATS = {"running": 0, "waiting": 0, "prompt_tokens": 0, "generated_tokens": 0}
STATS |= {"device_peak_reserved_bytes": 27 * GIB, "device_reserved_bytes": 26 * GIB}
MODEL = SimpleNamespace(
    engine=SimpleNamespace(
        stats=lambda: SimpleNamespace(**STATS, device_allocated_bytes=25 * GIB),
    ),
    info=SimpleNamespace(device="cuda:0", weights_bytes=24 * GIB, kv_cache_bytes=GIB),
    load_seconds=1.0,
)


def test_the_peak_on_a_gpu_is_the_one_that_is_held_against_the_budget() -> None:
    readiness = SimpleNamespace(state=lambda: None, loaded=MODEL, breach=None)
    lines = Metrics(readiness, Budget(None, 30 * GIB), 9).text().decode().splitlines()  # type: ignore[arg-type]
    told = dict(line.rsplit(" ", 1) for line in lines if line.startswith("kit_memory"))
    figures = {name: float(value) for name, value in told.items()}
    peak = figures['kit_memory_bytes{kind="peak",pool="device"}']
    assert peak == 27 * GIB + CUDA_CONTEXT_BYTES
    assert figures['kit_memory_bytes{kind="reserved",pool="device"}'] == 26 * GIB
    assert figures['kit_memory_budget_bytes{pool="device"}'] == 30 * GIB
