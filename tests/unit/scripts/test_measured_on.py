"""What the READMEs say of GPUs is what the receipts in docs/receipts show, and nothing else."""

import copy
import json
from pathlib import Path
from typing import Any

import measured_on
import pytest

RECEIPT: dict[str, Any] = {
    "kind": "gpu-bench",
    "stage": "bf16",
    "passed": True,
    "time": "2026-12-02T10:00:00+00:00",
    "machine": {"gpu": "NVIDIA H200", "driver": "580", "torch": "2.13.0", "simulated": False},
    "figures": {
        "load": {"bytes_per_second": {"cold": 2.5e9}},
        "memory": {"peak_bytes": 28 << 30, "planned_bytes": 29 << 30},
        "decode": {"tokens_per_second": 70.4, "of_bandwidth": 0.654},
    },
}


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_the_pages_say_what_the_receipts_show(page: str) -> None:
    text = (measured_on.REPOSITORY / page).read_text(encoding="utf-8")
    said = measured_on.sentence(measured_on.read_receipts(measured_on.RECEIPTS), page)
    assert said in text
    assert measured_on.rewritten(text, said) == text


def write(folder: Path, name: str, receipt: dict[str, Any]) -> None:
    (folder / f"gpu-{name}.json").write_text(json.dumps(receipt))


def test_a_real_gpus_figures_are_said(tmp_path: Path) -> None:
    write(tmp_path, "bf16", RECEIPT)
    said = measured_on.sentence(measured_on.read_receipts(tmp_path), "README.md")
    assert "NVIDIA H200, driver 580, torch 2.13.0, 2026-12-02" in said
    assert "bf16 28.0 GiB (plan 29.0), 70 tok/s (0.65 bandwidth), load 2.5 GB/s" in said


def test_a_pretended_gpu_or_a_failure_shows_nothing(tmp_path: Path) -> None:
    simulated, failed = copy.deepcopy(RECEIPT), copy.deepcopy(RECEIPT)
    simulated["machine"]["simulated"] = True
    failed["passed"] = False
    write(tmp_path, "bf16", simulated)
    write(tmp_path, "int8", failed)
    assert measured_on.read_receipts(tmp_path) == []
