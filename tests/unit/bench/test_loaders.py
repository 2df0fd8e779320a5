"""Loaders side by side, each for real in a process of its own, on the stand-in for upstream."""

import shutil
from pathlib import Path

import pytest

from kit.bench import loaders as loading
from kit.bench.fresh_process import Measured
from kit.bench.loaders import LOADERS, Sources, compare_loaders, load_once, make_trees
from kit.errors import EnvironmentNotReady, KitError
from kit.memory.unavailable import Unavailable
from kit.settings import Settings
from kit.weights.convert.convert import convert_checkpoint
from tests.stand_in_megatron import TREE

GOLDEN = Path(__file__).parents[2] / "golden" / "data" / "a"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    folder = tmp_path_factory.mktemp("loading")
    checkpoint = Path(shutil.copytree(GOLDEN / "ckpt", folder / "checkpoint"))
    shutil.copy(GOLDEN / "config.json", checkpoint)
    convert_checkpoint(checkpoint, folder / "converted", tokenizer=GOLDEN / "tokenizer")
    return Sources(checkpoint, folder / "converted", dict.fromkeys(("stock", "stream"), TREE))


def test_each_loader_loads_and_tells(sources, monkeypatch):
    monkeypatch.setattr(loading, "LOADERS", {name: LOADERS[name] for name in ("stream", "native")})
    told = []
    runs = compare_loaders(sources, device="cpu", dtype="bfloat16", rounds=2, on_run=told.append)
    assert [run.loader for run in runs] == ["stream", "native"] * 2
    assert told == runs
    for run in runs:
        assert run.seconds > 0
        assert run.device_allocated_bytes is run.device_used_bytes is None
    table_only, whole = {run.loader: run.weights_bytes for run in runs}.values()
    assert (table_only, whole) == (2000 * 64 * 2, 590592)


def test_a_loader_that_fails_is_an_error(sources, tmp_path):
    with pytest.raises(KitError, match="the measured process failed"):
        broken = Sources(sources.checkpoint, sources.converted, {"stock": tmp_path})
        load_once(broken, "stock", device="cpu", dtype="bfloat16")


def test_figures_of_a_gpu_are_kept_apart():
    facts = {"weights_bytes": 5, "allocated_peak_bytes": 7, "reserved_peak_bytes": 8}
    unknown = Unavailable("across a container's border")
    measured = Measured(1.0, 2.0, 3, 4, 0.0, 0.0, unknown, facts | {"reserved_bytes": 6})
    run = loading.load_run("stock", measured)
    assert (run.host_bytes, run.device_allocated_bytes, run.device_reserved_bytes) == (3, 7, 8)
    assert (run.device_kept_bytes, run.device_used_bytes) == (6, unknown)


def test_trees_need_the_pristine_one(tmp_path):
    with pytest.raises(EnvironmentNotReady, match="no upstream tree"):
        make_trees(Settings(data_dir=tmp_path, state_dir=tmp_path), tmp_path / "trees")
