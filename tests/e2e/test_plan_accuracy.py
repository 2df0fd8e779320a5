"""The plan against real servers: three sizes, two precisions and more, within 10 % both ways."""

import os
from pathlib import Path

import pytest
from bench_plan import SIZES, TOLERANCE, Case, Outcome, cases, run, table
from make_checkpoint import Sizes

from kit.units import GIB

pytestmark = pytest.mark.e2e

SMALL = {
    "30m": Sizes(4, 384, 1024, 60000),
    "60m": SIZES["60m"],
    "150m": Sizes(10, 768, 2048, 60000),
}


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_STATE_DIR", str(tmp_path / "state"))
    for name in [name for name in os.environ if name.startswith("KIT_MAX")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("precision", ["bf16", "int4"])
@pytest.mark.parametrize("size", SMALL)
def test_size_and_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str, precision: str
) -> None:
    monkeypatch.setitem(SIZES, size, SMALL[size])
    outcome = run(Case(size, precision, "cpu", context=1024), tmp_path)
    assert outcome.passed, table([outcome])
    assert (tmp_path / f"{size}-{precision}.json").exists()  # the receipt
    assert not (tmp_path / f"{size}-{precision}").exists()  # the model is gone


@pytest.mark.parametrize(
    "case",
    [
        Case("60m", "bf16", "cpu", context=1024, cast="float32"),
        Case("60m", "fp32", "cpu", context=1024, max_sequences=3),
        Case("60m", "int8", "cpu", context=9216),  # beyond the window: the cache is a ring
    ],
    ids=lambda case: case.name,
)
def test_casts_several_at_once_and_a_long_context(tmp_path: Path, case: Case) -> None:
    outcome = run(case, tmp_path)
    assert outcome.passed, table([outcome])


def test_verdicts() -> None:
    case = Case("60m", "bf16", "cpu", 1024)
    assert Outcome(case, 100, 109).passed
    assert not Outcome(case, 100, 111).passed
    assert not Outcome(case, 100, 89).passed
    assert not Outcome(case, 100, None).passed
    on_gpu = Case("13b", "bf16", "cuda", 4096)
    assert TOLERANCE["cuda"] == 0.05
    assert Outcome(on_gpu, 29 * GIB, 28 * GIB).passed
    assert not Outcome(on_gpu, 30 * GIB, 30 * GIB).passed  # not under 30 GiB
    assert "FAILED" in table([Outcome(case, 100, 111)])
    assert "not measured" in table([Outcome(case, 100, None)])


def test_cases() -> None:
    on_gpu = list(cases("cuda", ["13b"], ["bf16", "int8", "int4"]))
    assert [case.name for case in on_gpu] == ["13b-bf16", "13b-int8", "13b-int4"]
    assert {case.context for case in on_gpu} == {4096}
    on_cpu = [case.name for case in cases("cpu", ["60m", "1b"], ["bf16"])]
    assert on_cpu == ["60m-bf16", "1b-bf16", "60m-bf16-as-float32", "60m-bf16-x4"]
