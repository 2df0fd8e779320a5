import os
from pathlib import Path

import pytest

from kit.errors import EnvironmentNotReady
from kit.memory.plan.line import Pool
from kit.memory.plan.predict import plan_serving
from kit.memory.plan.shape import ModelShape
from kit.memory.plan.torch_build import CPU_BUILD
from kit.proof.receipt import KEPT, latest_timeline, new_path, run_of
from kit.runtime.protocol import ServeSpec
from kit.units import GIB
from tests.timelines import RUN

SPEC = ServeSpec(Path("/m"), "m", "127.0.0.1", 8000, 64, 1, "cpu", max_ram_bytes=2 * GIB)
SHAPE = ModelShape(2, 32, 48, 2000, 2048, 256, 4, 10**6)


def test_a_run_has_plan_and_budget_by_pool():
    plan = plan_serving(SHAPE, context=64, max_sequences=1, device="cpu", build=CPU_BUILD)
    run = run_of(SPEC, plan, "2026-01-02T03:04:05+00:00")
    assert run.planned_bytes == {"host": plan.peak_bytes(Pool.HOST)}
    assert run.budget_bytes == {"host": 2 * GIB}
    assert len(run.plan) == len(plan.lines)
    assert run_of(SPEC, None, "now").planned_bytes == {}


def test_names_are_of_date_and_model_and_never_taken(tmp_path):
    first = new_path(tmp_path, "receipts", RUN, ".json")
    assert first == tmp_path / "receipts/2026-01-02T03-04-05-spark.json"
    first.parent.mkdir()
    first.touch()
    assert new_path(tmp_path, "receipts", RUN, ".json").name == "2026-01-02T03-04-05-spark-2.json"


def test_the_newest_runs_stay_with_all_their_files(tmp_path):
    folder = tmp_path / "receipts"
    folder.mkdir()
    own = [folder / "mine.json", folder / "2026-01-02.json", folder / "2026-01-02T03-04-05-m.bak"]
    runs = [f"2026-01-02T03-04-{second:02}-m.5" for second in range(KEPT + 3)]
    for age, name in enumerate(runs):
        for suffix in ("json", "jsonl", "png"):
            path = folder / f"{name}.{suffix}"
            path.touch()
            os.utime(path, (1000 - age, 1000 - age))
    for path in own:
        path.touch()
        os.utime(path, (1, 1))
    still_written = folder / f"{runs[-1]}.jsonl"
    os.utime(still_written)
    new = new_path(tmp_path, "receipts", RUN, ".json")
    left = {path.name for path in folder.iterdir()} - {path.name for path in own}
    stay = [runs[-1], *runs[: KEPT - 2]]
    assert left == {f"{name}.{suffix}" for name in stay for suffix in ("json", "jsonl", "png")}
    assert all(path.exists() for path in own)
    assert not new.exists()
    new_path(tmp_path / "none", "receipts", RUN, ".json")


def test_the_newest_timeline_is_found_in_both_folders(tmp_path):
    with pytest.raises(EnvironmentNotReady, match="no timeline"):
        latest_timeline(tmp_path)
    for age, name in enumerate(("receipts/b.jsonl", "timelines/a.jsonl", "timelines/c.jsonl")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.utime(path, (1000 - age, 1000 - age))
    assert latest_timeline(tmp_path) == tmp_path / "receipts/b.jsonl"
