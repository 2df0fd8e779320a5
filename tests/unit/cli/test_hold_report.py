import json

import pytest

from kit.cli.memory.assert_ import print_json, print_text
from kit.memory.unavailable import Unavailable
from kit.proof.receipt import write_receipt
from kit.service.assert_memory import AssertReport
from kit.units import GIB
from tests.receipts import receipt


@pytest.fixture
def report(tmp_path):
    def make(**figures):
        path = tmp_path / "r.json"
        write_receipt(path, receipt(**figures))
        return AssertReport(path, (tmp_path / "r.png", tmp_path / "r.html"), None, None)

    return make


def test_what_held(report, capsys, tmp_path):
    print_text(report())
    assert (
        capsys.readouterr().out
        == f"""
spark held its memory budget
  model     bfloat16 on cuda:0, native engine
  work      full context, 1 x 4096 tokens, 12.5 s
  host RAM  peak 2.00 GiB, planned 3.00 GiB, budget 4.00 GiB
            0.67 of the plan: 1.00 GiB under, more than its tolerance of 10%
  VRAM      peak 27.00 GiB, planned 28.00 GiB, budget 30.00 GiB
            0.96 of the plan, within its tolerance of 10%
  receipt   {tmp_path}/r.json
  picture   {tmp_path}/r.png
  page      {tmp_path}/r.html
"""
    )


def test_a_breach_and_what_could_not_be_measured(report, capsys):
    print_text(report(device=31 * GIB))
    assert "spark passed its memory budget" in capsys.readouterr().out
    print_text(report(device=Unavailable("NVML is silent")))
    out = capsys.readouterr().out
    assert "spark could not be measured" in out
    assert "VRAM      could not be measured: NVML is silent; budget 30.00 GiB" in out


def test_on_the_cpu_there_is_no_vram(report, capsys):
    print_text(report(device=None))
    assert "VRAM      none: no GPU in use" in capsys.readouterr().out


def test_json_is_the_receipt_and_its_files(report, capsys, tmp_path):
    print_json(report())
    printed = json.loads(capsys.readouterr().out)
    assert printed["receipt"] == json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert printed["files"][0] == str(tmp_path / "r.json")
