from dataclasses import replace
from pathlib import Path

import pytest

from kit.errors import UsageError
from kit.memory.plan.line import Phase, Pool
from kit.memory.plan.predict import plan_serving
from kit.memory.plan.shape import ModelShape
from kit.memory.plan.torch_build import CUDA_BUILD
from kit.units import GIB

PARAMETERS = 13_312_542_720
SPARK_13B = ModelShape(40, 5120, 14336, 60000, 32768, 8192, 2, 2 * PARAMETERS, heads=40)


def plan(engine, context=4096, device="cuda", shape=SPARK_13B, **more):
    limits = {"context": context, "max_sequences": 1, "device": device, "build": CUDA_BUILD}
    return plan_serving(shape, engine=engine, **limits | more)


def line(found, name, pool=Pool.DEVICE):
    [size] = [each.size_bytes for each in found.lines if (each.name, each.pool) == (name, pool)]
    return size


def test_stock_holds_the_fp32_checkpoint_beside_the_model_on_the_gpu():
    """The published measurement of the loading alone: 1.5 times the checkpoint, 79.88 GB."""
    found = plan("stock", context=512)
    loading = found.phase_bytes(Pool.DEVICE, Phase.LOAD) - line(found, "CUDA context")
    assert loading == 6 * PARAMETERS
    assert 74 * GIB < loading < 75 * GIB


def test_what_stock_has_freed_stays_in_torchs_pool():
    """Segments are not joined, so that the scores of a long prompt find no room in them."""
    found = plan("stock", context=512)
    serving = found.phase_bytes(Pool.DEVICE, Phase.SERVE) - line(found, "cuBLAS")
    assert serving == found.phase_bytes(Pool.DEVICE, Phase.LOAD)
    longer = plan("stock", context=8192)
    scores, loading = line(longer, "attention"), longer.phase_bytes(Pool.DEVICE, Phase.LOAD)
    assert longer.peak_bytes(Pool.DEVICE) > loading + scores > 110 * GIB


def test_the_published_fix_moves_it_to_the_host():
    found = plan("cpu-first")
    assert found.phase_bytes(Pool.DEVICE, Phase.LOAD) < 26 * GIB
    assert found.phase_bytes(Pool.HOST, Phase.LOAD) > 6 * PARAMETERS
    assert found.phase_bytes(Pool.HOST, Phase.SERVE) < 5 * GIB


def test_the_rewritten_one_holds_nothing_twice():
    found = plan("megatron")
    assert found.phase_bytes(Pool.DEVICE, Phase.LOAD) < 26 * GIB
    assert found.peak_bytes(Pool.HOST) < 5 * GIB


@pytest.mark.parametrize(("tokens", "gigabytes"), [(2048, 2.7), (4096, 10.7), (8192, 42.9)])
def test_stock_scores_grow_with_the_square_of_the_prompt(tokens, gigabytes):
    scores = line(plan("stock", tokens), "attention") - 8 * tokens * 5120
    assert scores / 1e9 == pytest.approx(gigabytes, abs=0.06)


def test_rewritten_attention_looks_at_a_window():
    assert line(plan("megatron", 16384), "attention") == line(plan("megatron", 32768), "attention")
    assert line(plan("megatron", 32768), "attention") < 2 * GIB


def test_stock_masks():
    found = plan("stock", 32768)
    assert line(found, "masks on CPU", Pool.HOST) / 1e9 == pytest.approx(3.2, abs=0.1)
    assert line(found, "masks") == 32768**2
    assert all(each.name != "logits" for each in found.lines)  # they fit where the scores were
    logits = line(plan("stock", 256), "logits") + line(plan("stock", 256), "attention")
    assert logits == 6 * 256 * 60000


@pytest.mark.parametrize("engine", ["megatron", "stock"])
def test_the_cache_is_that_of_the_whole_context(engine):
    assert line(plan(engine, 32768), "KV cache") == 819_200 * 32768


def test_everything_is_on_the_host_of_a_cpu():
    found = plan("stock", 512, device="cpu")
    assert found.peak_bytes(Pool.DEVICE) == 0
    assert found.phase_bytes(Pool.HOST, Phase.LOAD) > 6 * PARAMETERS
    assert found.phase_bytes(Pool.HOST, Phase.SERVE) < 28 * GIB


def test_ranks_share_the_model_and_have_the_rest_each():
    one, four = plan("megatron"), plan("megatron", ranks=4)
    assert four.ranks == 4
    for name in ("weights", "KV cache", "attention"):
        assert line(four, name) == line(one, name)
    assert line(four, "CUDA context") == 4 * line(one, "CUDA context")
    assert line(four, "cuBLAS") == 4 * line(one, "cuBLAS")
    assert line(four, "activations") - line(one, "activations") == 3 * 2 * 512 * 5120 * 2
    for name in ("piece", "CUDA on the host"):
        assert line(four, name, Pool.HOST) == 4 * line(one, name, Pool.HOST)
    processes = line(one, "upstream's process", Pool.HOST)
    assert line(four, "4 ranks", Pool.HOST) == 4 * processes
    assert line(four, "runtime", Pool.HOST) == line(one, "runtime", Pool.HOST)
    assert line(four, "launcher", Pool.HOST) > CUDA_BUILD.resident_bytes
    assert all(each.name != "launcher" for each in one.lines)


def test_the_native_engine_has_one_rank():
    with pytest.raises(UsageError, match="runs on one GPU"):
        plan("native", ranks=2)


def test_fp32():
    found = plan("megatron", dtype_bytes=4)
    assert line(found, "weights") == 4 * PARAMETERS
    assert line(found, "KV cache") == 2 * 819_200 * 4096


def test_what_upstream_cannot_do_is_refused():
    with pytest.raises(UsageError, match="one answer at a time"):
        plan("megatron", max_sequences=2)
    with pytest.raises(UsageError, match="int8"):
        plan("stock", shape=replace(SPARK_13B, integer_bytes=GIB))


@pytest.mark.parametrize("engine", ["native", "megatron", "cpu-first", "stock"])
def test_the_pages_table_of_engines(engine):
    """The rows of docs/memory.md: GiB of VRAM loading, serving 4096 and 32768; of RAM loading."""
    page = Path(__file__).parents[4] / "docs" / "memory.md"
    short, long = plan(engine), plan(engine, 32768)
    figures = (
        short.phase_bytes(Pool.DEVICE, Phase.LOAD),
        short.phase_bytes(Pool.DEVICE, Phase.SERVE),
        long.phase_bytes(Pool.DEVICE, Phase.SERVE),
        short.phase_bytes(Pool.HOST, Phase.LOAD),
    )
    row = " | ".join(f"{size / GIB:.1f}" for size in figures)
    assert f"| {engine} | {row} |" in page.read_text(encoding="utf-8")
