from dataclasses import replace

import pytest

from kit.checkpoint.layout import Dimensions
from kit.errors import UsageError
from kit.memory.plan.fit import (
    CONTEXTS,
    PRECISIONS,
    STEP,
    TRIED_SEQUENCES,
    Fitting,
    options,
    smallest,
)
from kit.memory.plan.line import Pool
from kit.memory.plan.shape import Architecture
from kit.memory.plan.torch_build import CPU_BUILD, CUDA_BUILD
from kit.units import GIB

SPARK_13B = Architecture(Dimensions(40, 5120, 14336, 60000), 32768, 8192, 40)
SHAPES = {precision: SPARK_13B.at(precision) for precision in PRECISIONS}


def on_gpu(gib, **more):
    return Fitting(int(gib * GIB), "cuda", CUDA_BUILD, **more)


def best(gib, **more):
    option = options(on_gpu(gib, **more), SHAPES)[0]
    return option.precision, option.plan.context, option.plan.max_sequences


@pytest.mark.parametrize(
    ("gib", "expected"),
    [
        (80, ("bf16", 32768, 8)),
        (40, ("bf16", 32768, 2)),
        (24, ("int8", 32768, 1)),
        (18, ("int8", 5120, 1)),  # more bits go before a longer context
        (16, ("int4", 32768, 1)),  # but not below the context that is served by default
        (12, ("int4", 4608, 1)),
        (9, ("int4", 1024, 1)),
    ],
)
def test_the_best_that_fits(gib, expected):
    assert best(gib) == expected


@pytest.mark.parametrize("gib", [9, 16, 24, 32, 48, 80])
def test_everything_that_is_offered_fits_and_one_more_sequence_would_not(gib):
    fitting = on_gpu(gib)
    found = options(fitting, SHAPES)
    assert found
    for option in found:
        assert option.peak_bytes <= fitting.room_bytes
        if option.plan.max_sequences == TRIED_SEQUENCES:
            continue
        more = fitting.option(
            option.precision,
            SHAPES[option.precision],
            option.plan.context,
            option.plan.max_sequences + 1,
        )
        assert more.peak_bytes > fitting.room_bytes


def test_the_longest_context_is_found_between_two_usual_ones():
    option = options(on_gpu(30), SHAPES)[0]
    assert option.plan.context not in CONTEXTS
    longer = on_gpu(30).option("bf16", SHAPES["bf16"], option.plan.context + STEP, 1)
    assert longer.peak_bytes > 30 * GIB


def test_what_is_asked_for_is_kept():
    found = options(on_gpu(24, contexts=(5000,), least_sequences=2), SHAPES)
    assert {option.plan.context for option in found} == {5000}
    assert min(option.plan.max_sequences for option in found) >= 2


def test_nothing_fits():
    fitting = on_gpu(4)
    assert options(fitting, SHAPES) == ()
    least = smallest(fitting, SHAPES)
    assert (least.precision, least.plan.context) == ("int4", 512)
    assert least.peak_bytes > 4 * GIB


def test_a_model_made_for_little_context():
    small = {"bf16": replace(SHAPES["bf16"], max_context=256)}
    assert options(on_gpu(40), small)[0].plan.context == 256


def test_on_a_cpu_the_hosts_memory_counts():
    option = options(Fitting(16 * GIB, "cpu", CPU_BUILD), SHAPES)[0]
    assert option.plan.device == "cpu"
    assert option.peak_bytes == option.plan.peak_bytes(Pool.HOST) <= 16 * GIB


def test_upstream_generates_one_answer_at_a_time():
    bf16 = {"bf16": SHAPES["bf16"]}
    option = options(on_gpu(80, engine="megatron"), bf16)[0]
    assert (option.plan.context, option.plan.max_sequences) == (32768, 1)
    with pytest.raises(UsageError):
        options(on_gpu(80, engine="megatron", least_sequences=2), bf16)
