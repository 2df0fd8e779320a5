from dataclasses import replace

import pytest

from kit.errors import UsageError
from kit.memory.limits import serving_limits
from kit.memory.plan import Basis, Phase, Pool, kv_positions, plan_serving
from kit.memory.shape import ModelShape
from kit.memory.torch_build import CPU_BUILD, CUDA_BUILD, installed_build
from kit.units import GIB, MIB

SPARK_13B = ModelShape(
    layers=40,
    hidden=5120,
    intermediate=14336,
    vocabulary=60000,
    max_context=32768,
    window=8192,
    dtype_bytes=2,
    weights_bytes=26_627_072_000,
)


def plan_13b(*, context, max_sequences, device, build=CUDA_BUILD):
    return plan_serving(
        SPARK_13B, context=context, max_sequences=max_sequences, device=device, build=build
    )


def sizes(plan, pool):
    return {line.name: line.size_bytes for line in plan.lines if line.pool is pool}


def test_13b_on_a_gpu_fits_30_gib():
    context, sequences = serving_limits(SPARK_13B)
    plan = plan_13b(context=context, max_sequences=sequences, device="cuda")
    assert (context, sequences) == (4096, 1)
    device = sizes(plan, Pool.DEVICE)
    assert device["weights"] == 26_627_072_000
    assert device["KV cache"] == 819_200 * 4096  # 800 KiB per token
    assert 28 * GIB < plan.peak_bytes(Pool.DEVICE) < 30 * GIB
    assert plan.peak_bytes(Pool.DEVICE) == sum(device.values())


def test_on_a_cpu_everything_is_host_memory():
    plan = plan_13b(context=4096, max_sequences=1, device="cpu")
    assert plan.peak_bytes(Pool.DEVICE) == 0
    assert set(sizes(plan, Pool.HOST)) == {
        "weights",
        "KV cache",
        "activations",
        "runtime",
        "reserve",
    }


def test_4_bit_weights_are_laid_out_anew_on_a_cpu_only():
    shape = replace(
        SPARK_13B, weights_bytes=7 * GIB, packed_bytes=6 * GIB, packed_scales_bytes=GIB // 8
    )
    limits = {"context": 4096, "max_sequences": 1, "build": CPU_BUILD}
    host = sizes(plan_serving(shape, device="cpu", **limits), Pool.HOST)
    assert host["weights"] == GIB
    assert host["weights (packed)"] == 6 * GIB + GIB // 4
    device = sizes(plan_serving(shape, device="cuda", **limits), Pool.DEVICE)
    assert device["weights"] == 7 * GIB
    assert "weights (packed)" not in device


def test_pages_mapped_while_a_gpu_is_filled_are_gone_when_it_serves():
    plan = plan_13b(context=4096, max_sequences=1, device="cuda")
    loading = plan.phase_bytes(Pool.HOST, Phase.LOAD)
    assert plan.peak_bytes(Pool.HOST) == loading
    assert loading - plan.phase_bytes(Pool.HOST, Phase.SERVE) == SPARK_13B.weights_bytes


def test_the_window_bounds_the_cache():
    assert kv_positions(SPARK_13B, 4096) == 4096
    assert kv_positions(SPARK_13B, 32768) == 8192 + 512
    assert kv_positions(replace(SPARK_13B, window=None), 32768) == 32768


def test_sequences_multiply_the_cache():
    one, three = (
        sizes(plan_13b(context=512, max_sequences=n, device="cpu"), Pool.HOST) for n in (1, 3)
    )
    assert three["KV cache"] == 3 * one["KV cache"]
    assert three["weights"] == one["weights"]


def test_every_line_tells_how_it_is_known():
    plan = plan_13b(context=4096, max_sequences=1, device="cuda")
    assert all(line.why and line.size_bytes > 0 for line in plan.lines)
    bases = {line.name: line.basis for line in plan.lines}
    assert bases["weights"] is Basis.COMPUTED
    assert bases["CUDA context"] is Basis.ASSUMED


def test_reserve_grows_with_what_is_not_the_weights():
    small = sizes(plan_13b(context=512, max_sequences=1, device="cuda"), Pool.DEVICE)
    large = sizes(plan_13b(context=8192, max_sequences=4, device="cuda"), Pool.DEVICE)
    assert small["reserve"] >= 64 * MIB
    assert large["reserve"] > 1 * GIB


@pytest.mark.parametrize("context", [1, 32769])
def test_impossible_context(context):
    with pytest.raises(UsageError):
        serving_limits(SPARK_13B, context)


def test_the_runtime_line_follows_the_torch_build():
    with_cuda, without = (
        sizes(plan_13b(context=512, max_sequences=1, device="cpu", build=build), Pool.HOST)
        for build in (CUDA_BUILD, CPU_BUILD)
    )
    assert with_cuda["runtime"] - without["runtime"] == 400 * MIB


def test_the_installed_build_is_the_one_that_runs():
    torch = pytest.importorskip("torch")
    assert installed_build() is (CUDA_BUILD if torch.version.cuda else CPU_BUILD)
