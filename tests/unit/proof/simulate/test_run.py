"""Paths that are really run, at a small size and at the 13B's, on tensors without data."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from kit.errors import UsageError
from kit.memory.plan.line import Phase, Pool
from kit.proof.simulate.ledger import Stage
from kit.proof.simulate.report import STAGES, figures, loading_table, record, table
from kit.proof.simulate.run import ENGINES, Job, make_trees, simulate_all, simulate_apart
from kit.settings import Settings
from kit.units import MIB
from kit.upstream.source import fetch
from kit.weights.catalogue import read_catalogue
from kit.weights.planned import published

RING_BYTES = 4 * 16 * MIB
EVERY_GRID = bool(os.environ.get("KIT_TEST_SIMULATE_GRID"))


@pytest.mark.parametrize("precision", ["bf16", "fp32", "int8", "int4"])
def test_the_native_engine(small, precision) -> None:
    found = simulate_apart(Job("native", small, precision, 1024, 2))
    loaded = next(most for most in found.peaks if most.stage is Stage.LOAD)
    weights = small.at(precision).weights_bytes
    assert weights <= loaded.gpu_bytes <= weights + 4096  # rotary frequencies
    assert loaded.host_bytes == RING_BYTES
    kv_cache = 2 * 2 * 256 * small.at(precision).dtype_bytes * 1024 * 2
    assert max(most.gpu_bytes for most in found.peaks) > weights + kv_cache
    assert [most.stage for most in found.peaks] == ["build", "load", "prompt", "decode"]
    assert found.kernels > 50
    assert found.bytes_moved > weights


def test_a_decode_step_waits_once_for_the_gpu(small) -> None:
    """For the tokens that it has chosen; any other `.item()` would be named here."""
    found = simulate_apart(Job("native", small, "bf16", 512, 1))
    assert sum(found.reads.values()) == 1


def test_upstreams_way_of_loading(small, stand_in) -> None:
    """The stand-in loads as upstream does: the whole checkpoint to the GPU, then casts."""
    found = simulate_apart(Job("stock", small, "bf16", 512, 1, str(stand_in)))
    checkpoint = small.at("fp32").weights_bytes
    table_bytes = 8000 * 256
    loaded = next(most for most in found.peaks if most.stage is Stage.LOAD)
    assert loaded.gpu_bytes == checkpoint + 2 * table_bytes
    assert loaded.host_bytes >= 4 * table_bytes  # the largest tensor, on its way
    served = next(most for most in found.peaks if most.stage is Stage.DECODE)
    assert served.gpu_bytes < checkpoint
    assert served.reserved_bytes >= loaded.reserved_bytes  # which the pool does not give back


@pytest.mark.parametrize(
    ("change", "message"),
    [({"precision": "int8"}, "int8"), ({"max_sequences": 2}, "one answer"), ({}, "not there")],
)
def test_what_upstream_cannot_do_is_refused(small, change, message) -> None:
    with pytest.raises(UsageError, match=message):
        simulate_all([replace(Job("stock", small, "bf16", 512, 1), **change)])


def test_tables_and_record(small) -> None:
    found = [simulate_apart(Job("native", small, "bf16", 512, 1))]
    assert "| native | – |" in table(found)
    assert "| native |" in loading_table(found)
    [path] = record(found)["paths"]
    assert path["engine"] == "native"
    assert path["decode_step"]["kernels"] == found[0].kernels


def _grid() -> list[tuple[str, str, int, int]]:
    """What the plan is checked against: all with KIT_TEST_SIMULATE_GRID=1, which takes hours."""
    if not EVERY_GRID:
        return [("native", "bf16", 512, 1), ("native", "int4", 512, 1), ("stock", "bf16", 4096, 1)]
    contexts = (512, 4096, 8192, 32768)
    upstream = [
        (engine, precision, context, 1)
        for engine in ENGINES[:3]
        for precision in ("bf16", "fp32")
        for context in contexts
    ]
    native = [
        ("native", precision, context, count)
        for precision in ("bf16", "fp32", "int8", "int4")
        for context in contexts
        for count in (1, 8)
    ]
    return upstream + native


@pytest.mark.parametrize(("engine", "precision", "context", "count"), _grid())
def test_the_plan_says_what_the_13b_takes(
    engine, precision, context, count, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VRAM within 2 %, host RAM within 5 %, loading and serving."""
    tree = None
    if engine != "native":
        named = os.environ.get("KIT_UPSTREAM_DIR")
        if not named:
            pytest.skip("KIT_UPSTREAM_DIR does not name a clone of the real upstream repo")
        monkeypatch.setenv("KIT_UPSTREAM_TREE", str(tmp_path / "upstream"))
        fetch(Settings.from_environ(), named, print)
        tree = str(make_trees([engine], tmp_path / "trees")[engine])
    model = published(read_catalogue())
    found = simulate_apart(Job(engine, model, precision, context, count, tree))
    for each in figures(found):
        allowed = 0.02 if each.pool is Pool.DEVICE else 0.05
        assert each.ratio == pytest.approx(1, abs=allowed), each
    if (engine, precision, context) == ("stock", "bf16", 4096):
        assert max(most.gpu_bytes for most in found.peaks) / 2**30 == pytest.approx(74.39, abs=0.02)
        assert found.reserved_bytes(STAGES[Phase.LOAD]) < 75 * 2**30
