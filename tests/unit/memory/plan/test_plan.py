from dataclasses import replace

import pytest

from kit.errors import UsageError
from kit.memory.plan.fit import serving_limits
from kit.memory.plan.line import Basis, Phase, Pool
from kit.memory.plan.predict import plan_serving
from kit.memory.plan.shape import ModelShape
from kit.memory.plan.torch_build import CPU_BUILD, CUDA_BUILD
from kit.units import GIB

SPARK_13B = ModelShape(
    layers=40,
    hidden=5120,
    intermediate=14336,
    vocabulary=60000,
    max_context=32768,
    window=8192,
    dtype_bytes=2,
    weights_bytes=26_625_085_440,
)


def plan_13b(context=4096, max_sequences=1, device="cuda", **more):
    return plan_serving(
        SPARK_13B,
        context=context,
        max_sequences=max_sequences,
        device=device,
        **{"build": CUDA_BUILD} | more,
    )


def sizes(plan, pool):
    return {line.name: line.size_bytes for line in plan.lines if line.pool is pool}


def test_13b_on_a_gpu_fits_30_gib():
    context, sequences = serving_limits(SPARK_13B)
    plan = plan_13b(context, sequences)
    assert (context, sequences) == (4096, 1)
    assert 28 * GIB < plan.peak_bytes(Pool.DEVICE) < 30 * GIB
    assert plan.peak_bytes(Pool.DEVICE) == sum(sizes(plan, Pool.DEVICE).values())


def test_a_gpu_holds_little_beside_weights_and_cache():
    plan = plan_13b()
    device = sizes(plan, Pool.DEVICE)
    held = device["weights"] + device["KV cache"]
    assert plan.peak_bytes(Pool.DEVICE) < 1.03 * held + GIB


@pytest.mark.parametrize("engine", ["native", "megatron", "cpu-first", "stock"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_line_tells_how_it_is_known(engine, device):
    plan = plan_13b(engine=engine, device=device)
    assert all(line.why and line.size_bytes > 0 and line.phases for line in plan.lines)
    assert len({(line.pool, line.name) for line in plan.lines}) == len(plan.lines)
    bases = {line.name: line.basis for line in plan.lines}
    assert bases["weights"] is Basis.COMPUTED
    assert bases["runtime"] is Basis.MEASURED
    if device == "cuda":
        assert bases["CUDA context"] is Basis.ASSUMED
    else:
        assert plan.peak_bytes(Pool.DEVICE) == 0


def test_the_peak_is_that_of_the_fullest_phase():
    plan = plan_13b(engine="stock")
    assert plan.peak_phase(Pool.DEVICE) is Phase.SERVE  # of equals the later one
    assert plan.peak_phase(Pool.HOST) is Phase.LOAD
    assert plan.peak_bytes(Pool.HOST) == plan.phase_bytes(Pool.HOST, Phase.LOAD)
    assert plan_13b().peak_phase(Pool.DEVICE) is Phase.SERVE


@pytest.mark.parametrize("context", [1, 32769])
def test_impossible_context(context):
    with pytest.raises(UsageError):
        serving_limits(SPARK_13B, context)


def test_the_runtime_line_follows_the_torch_build():
    with_cuda, without = (
        sizes(plan_13b(context=512, device="cpu", build=build), Pool.HOST)
        for build in (CUDA_BUILD, CPU_BUILD)
    )
    difference = CUDA_BUILD.resident_bytes - CPU_BUILD.resident_bytes
    assert with_cuda["runtime"] - without["runtime"] == difference


def test_numbers_of_another_size():
    plan = plan_13b(device="cpu", dtype_bytes=4)
    host = sizes(plan, Pool.HOST)
    assert host["weights"] == 2 * SPARK_13B.weights_bytes
    assert host["weights (stored)"] == SPARK_13B.weights_bytes  # one file, mapped meanwhile
    assert host["KV cache"] == 2 * sizes(plan_13b(device="cpu"), Pool.HOST)["KV cache"]
    files = replace(SPARK_13B, largest_file_bytes=5 * 10**9)
    plan = plan_serving(
        files, context=4096, max_sequences=1, device="cpu", build=CPU_BUILD, dtype_bytes=4
    )
    assert sizes(plan, Pool.HOST)["weights (stored)"] == 5 * 10**9
