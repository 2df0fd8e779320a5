import json
from dataclasses import replace
from pathlib import Path

import pytest

from kit.cli.up_report import print_json, print_text
from kit.memory.budget import Budget, Measured, assess
from kit.memory.plan.line import Pool
from kit.memory.plan.predict import plan_serving
from kit.memory.plan.shape import ModelShape
from kit.memory.plan.torch_build import CUDA_BUILD
from kit.memory.unavailable import Unavailable
from kit.proof.receipt import MeasuredWork
from kit.runtime.client import Ready
from kit.runtime.protocol import ServeSpec
from kit.service.measured_run import UpReport
from kit.service.model import Model
from kit.units import GIB

SHAPE = ModelShape(40, 5120, 14336, 60000, 32768, 8192, 2, 26_627_072_000)
FOLDER = Path("/models/it's spark")
BUDGET = Budget(max_ram_bytes=30 * GIB, max_vram_bytes=30 * GIB)


@pytest.fixture
def report():
    measured = Measured(host_peak_bytes=27 * GIB, device_peak_bytes=29 * GIB)
    return UpReport(
        model=Model("it's spark", FOLDER, False, "你好"),
        spec=ServeSpec(FOLDER, "it's spark", "0.0.0.0", 8000, 4096, 1, "cuda"),  # noqa: S104
        plan=plan_serving(SHAPE, context=4096, max_sequences=1, device="cuda", build=CUDA_BUILD),
        ready=Ready("it's spark", "bfloat16", "cuda:0", 4096, 1, 31.5, 28 * GIB),
        where="process 4711",
        pid=4711,
        started=True,
        seconds=40.2,
        question="你好",
        answer="你好！" * 40,
        measured=measured,
        verdicts=assess(BUDGET, measured),
    )


def test_text_on_a_gpu(report, capsys):
    spec = replace(report.spec, api_key_digest="ab12")
    print_text(replace(report, spec=spec), introduce=True)
    out = capsys.readouterr().out
    assert "it's spark is up" in out
    assert "VRAM      peak 29.00 GiB, planned 28." in out
    assert "no GPU" not in out
    assert '-H "Authorization: Bearer $KIT_API_KEY"' in out
    assert "demo" not in out


def test_an_ipv6_address_can_be_pasted(report, capsys, monkeypatch):
    for name in ("http_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    print_text(replace(report, spec=replace(report.spec, host="::1")), introduce=True)
    assert "curl 'http://[::1]:8000/v1/chat/completions' \\" in capsys.readouterr().out


def test_chinese_answers_fit_80_columns(report, capsys):
    print_text(report)
    widths = [
        sum(2 if ord(letter) > 0x2E80 else 1 for letter in line)
        for line in capsys.readouterr().out.splitlines()
    ]
    assert max(widths) <= 80


def test_breach(report, capsys):
    measured = replace(report.measured, device_peak_bytes=31 * GIB)
    print_text(replace(report, verdicts=assess(BUDGET, measured)))
    out = capsys.readouterr().out
    assert "was stopped: it took more memory than its budget" in out
    assert "  ran in " in out
    assert "curl" not in out


def test_unmeasured_vram_is_said_and_null_in_json(report, capsys):
    measured = replace(report.measured, device_peak_bytes=Unavailable("NVML is silent"))
    unmeasured = replace(report, verdicts=assess(BUDGET, measured))
    print_text(unmeasured)
    out = capsys.readouterr().out
    assert "VRAM      could not be measured: NVML is silent" in out
    assert "was stopped: its peak was not measured" in out
    print_json(unmeasured)
    record = json.loads(capsys.readouterr().out)
    assert record["within_budget"] is False
    assert record["memory"]["vram"] == {
        "peak_bytes": None,
        "unavailable": "NVML is silent",
        "budget_bytes": 30 * GIB,
        "plan_bytes": report.plan.peak_bytes(Pool.DEVICE),
        "passed": False,
        "measured_by": None,
    }


def test_vram_that_is_not_the_drivers_figure_is_marked(report, capsys):
    print_text(
        replace(report, verdicts=assess(BUDGET, replace(report.measured, device_by="torch")))
    )
    assert "the CUDA context assumed" in capsys.readouterr().out
    print_text(report)
    assert "assumed" not in capsys.readouterr().out


def test_says_where_kit_is_when_the_shell_would_not_find_it(report, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(tmp_path / ".venv/bin/kit"), "up"])
    print_text(report, introduce=True)
    assert "Stop it with: kit down   (kit is .venv/bin/kit here)" in capsys.readouterr().out


def test_what_was_done_before_the_peak_was_held(report, capsys):
    work = MeasuredWork(2, 4000, 96, 12.5)
    print_text(replace(report, work=work, receipt=Path("/state/r.json")))
    out = capsys.readouterr().out
    assert "  held at   full context: 2 x 4096 tokens, 12.5 s\n" in out
    assert "  receipt   /state/r.json\n" in out
    print_text(replace(report, skipped="it is busy", receipt=Path("/state/r.json")))
    assert "one answer; its context was not filled: it is busy" in capsys.readouterr().out
    print_json(replace(report, work=work, receipt=Path("/state/r.json")))
    record = json.loads(capsys.readouterr().out)
    assert (record["work"]["sequences"], record["receipt"]) == (2, "/state/r.json")
