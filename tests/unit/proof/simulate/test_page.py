"""docs/memory.md shows the table that `kit memory simulate` prints."""

import os
import re
from pathlib import Path

import pytest

from kit.memory.plan.line import Pool
from kit.proof.simulate.report import STAGES, plan_of, table
from kit.proof.simulate.run import ENGINES, Job, Simulated, make_trees, simulate_all, simulate_apart
from kit.settings import Settings
from kit.units import GIB
from kit.upstream.source import fetch
from kit.weights.catalogue import read_catalogue
from kit.weights.planned import published

PAGE = (Path(__file__).parents[4] / "docs/memory.md").read_text(encoding="utf-8")
SHOWN = re.search(r"^\| engine \| VRAM published .*\n\|[-|]*\n((?:\| .*\n)+)", PAGE, re.MULTILINE)
ROWS = {row.split(" | ")[0].strip("| "): row for row in (SHOWN or [""])[1].splitlines()}


def job(engine, tree=None) -> Job:
    return Job(engine, published(read_catalogue()), "bf16", 4096, 1, tree)


def test_planned_figures() -> None:
    assert list(ROWS) == list(ENGINES)
    for engine, row in ROWS.items():
        plan = plan_of(Simulated(job(engine), (), (), 0, 0, {}))
        planned = [
            f"{plan.phase_bytes(pool, phase) / GIB:.1f}"
            for pool in (Pool.DEVICE, Pool.HOST)
            for phase in STAGES
        ]
        assert re.findall(r"[\d.]+ / ([\d.]+)", row) == planned, engine


def test_the_native_engines_row() -> None:
    [row] = table([simulate_apart(job("native"))]).splitlines()[2:]
    assert row == ROWS["native"]


def test_the_whole_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = os.environ.get("KIT_UPSTREAM_DIR")
    if not named:
        pytest.skip("KIT_UPSTREAM_DIR does not name a clone of the real upstream repo")
    monkeypatch.setenv("KIT_UPSTREAM_TREE", str(tmp_path / "upstream"))
    fetch(Settings.from_environ(), named, print)
    trees = make_trees(ENGINES, tmp_path / "trees")
    found = simulate_all(
        [job(each, str(trees[each]) if each in trees else None) for each in ENGINES]
    )
    assert table(found).splitlines()[2:] == list(ROWS.values())
