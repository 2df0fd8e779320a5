from dataclasses import replace

import pytest

from kit.memory.plan import native as plan_native
from kit.memory.plan.allocator import pinned_bytes
from kit.memory.plan.line import Phase, Pool
from kit.memory.plan.native import kv_positions
from kit.memory.plan.predict import plan_serving
from kit.memory.plan.shape import ModelShape
from kit.memory.plan.torch_build import CPU_BUILD
from kit.units import GIB, MIB

SPARK_13B = ModelShape(40, 5120, 14336, 60000, 32768, 8192, 2, 26_625_085_440)

SMALL = ModelShape(2, 64, 128, 2000, 2048, 256, 2, MIB)


def sizes(pool, device, context=4096, max_sequences=1, shape=SPARK_13B):
    plan = plan_serving(
        shape, context=context, max_sequences=max_sequences, device=device, build=CPU_BUILD
    )
    return {line.name: line.size_bytes for line in plan.lines if line.pool is pool}


def test_lines_of_a_gpu():
    device = sizes(Pool.DEVICE, "cuda")
    assert device["weights"] == 26_625_085_440
    assert device["KV cache"] == 819_200 * 4096  # 800 KiB per token
    lines = {"weights", "KV cache", "activations", "CUDA context", "cuBLAS", "reserve"}
    assert set(device) == lines
    host = sizes(Pool.HOST, "cuda")
    assert set(host) == {"runtime", "CUDA on the host", "loading ring"}
    assert sum(host.values()) < 3 * GIB  # nothing of the weights


def test_on_a_cpu_everything_is_host_memory():
    assert set(sizes(Pool.HOST, "cpu")) == {
        "weights",
        "KV cache",
        "activations",
        "runtime",
        "compiled programs",
        "reserve",
    }


@pytest.mark.parametrize(("context", "reserve"), [(64, 16 * MIB), (8192, None)])
def test_the_reserve_on_a_cpu_is_what_was_seen_of_holes(context, reserve):
    """At least 16 MiB, else three quarters of the activations."""
    shape = replace(SPARK_13B, max_context=8192) if reserve is None else SMALL
    host = sizes(Pool.HOST, "cpu", context=context, shape=shape)
    assert host["reserve"] == (reserve or host["activations"] * 3 // 4)


def test_4_bit_weights_are_laid_out_anew_on_a_cpu_only():
    shape = replace(
        SPARK_13B,
        weights_bytes=7 * GIB,
        packed_bytes=6 * GIB,
        integer_bytes=6 * GIB,
        packed_scales_bytes=GIB // 8,
    )
    host = sizes(Pool.HOST, "cpu", shape=shape)
    assert host["weights"] == GIB
    assert host["weights (packed)"] == 6 * GIB + GIB // 4
    device = sizes(Pool.DEVICE, "cuda", shape=shape)
    assert device["weights"] == 7 * GIB
    assert "weights (packed)" not in device


def test_integers_become_floats_a_block_of_rows_at_a_time():
    plain = sizes(Pool.DEVICE, "cuda")["activations"]
    int8 = replace(SPARK_13B, integer_bytes=12 * GIB)
    int4 = replace(int8, packed_bytes=12 * GIB)
    block = 4096 * 14336
    assert sizes(Pool.DEVICE, "cuda", shape=int8)["activations"] - plain == 2 * block
    assert sizes(Pool.DEVICE, "cuda", shape=int4)["activations"] - plain == 3 * block
    on_cpu = sizes(Pool.HOST, "cpu")["activations"]
    assert sizes(Pool.HOST, "cpu", shape=int8)["activations"] - on_cpu == 2 * 512 * 14336
    assert sizes(Pool.HOST, "cpu", shape=int4)["activations"] == on_cpu  # torch has a kernel


def test_the_window_bounds_the_cache():
    assert kv_positions(SPARK_13B, 4096) == 4096
    assert kv_positions(SPARK_13B, 32768) == 8192 + 512
    assert kv_positions(replace(SPARK_13B, window=None), 32768) == 32768


def test_sequences_multiply_the_cache_alone():
    one, three = (sizes(Pool.HOST, "cpu", context=512, max_sequences=n) for n in (1, 3))
    assert three["KV cache"] == 3 * one["KV cache"]
    assert three["weights"] == one["weights"]


def test_torchs_pool_rounds_what_a_gpu_holds():
    shape = replace(SPARK_13B, rounding_bytes=5 * MIB)
    assert sizes(Pool.DEVICE, "cuda", shape=shape)["weights' rounding"] == 5 * MIB
    assert "weights' rounding" not in sizes(Pool.HOST, "cpu", shape=shape)
    cache = sizes(Pool.DEVICE, "cuda", context=4001)["KV cache"]
    assert cache == 80 * 40 * MIB  # 39.07 MiB for each layer's keys and values
    assert sizes(Pool.HOST, "cpu", context=4001)["KV cache"] == 819_200 * 4001


@pytest.mark.parametrize(("device", "pool"), [("cpu", Pool.HOST), ("cuda", Pool.DEVICE)])
def test_a_longer_context_never_takes_less(device, pool):
    totals = [
        sum(sizes(pool, device, context=context).values())
        for context in (2, 511, 512, 4096, 8704, 8705, 32768)
    ]
    assert totals == sorted(totals)
    assert totals[-1] == totals[-2]  # beyond window and chunk it costs nothing more


def test_loading_holds_no_cache_yet():
    plan = plan_serving(SPARK_13B, context=4096, max_sequences=1, device="cuda", build=CPU_BUILD)
    loading = plan.phase_bytes(Pool.DEVICE, Phase.LOAD)
    assert loading < plan.phase_bytes(Pool.DEVICE, Phase.SERVE) - 819_200 * 4096


def test_what_is_known_of_the_engine_is_so():
    from kit.checkpoint.pages import ROOM_BYTES
    from kit.serve.native import quantised, staging

    each = staging.BUFFER_BYTES + ROOM_BYTES
    assert staging.BUFFERS * pinned_bytes(each) == plan_native.RING_BYTES
    rows = {"cpu": quantised._CPU_BLOCK_ROWS, "cuda": quantised._BLOCK_ROWS}
    assert rows == plan_native._DEQUANTISED_ROWS
