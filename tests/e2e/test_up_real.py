"""From a checkpoint in upstream's format to an answer: nothing is stood in for."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from demo_questions import load_entries
from kit_process import REPOSITORY, Kit, kill

pytest.importorskip("torch", reason="needs the native extra")
pytestmark = pytest.mark.e2e

GOLDEN = REPOSITORY / "tests/golden/data/a"


@pytest.fixture
def real_kit(kit: Kit) -> Kit:
    return replace(kit, program=("-m", "kit"))


@pytest.fixture
def converted(real_kit: Kit, tmp_path: Path) -> Path:
    output = tmp_path / "golden"
    tokenizer = ("--tokenizer", str(GOLDEN / "tokenizer"))
    config = ("--config", str(GOLDEN / "config.json"))
    done = real_kit("weights", "convert", str(GOLDEN / "ckpt"), str(output), *tokenizer, *config)
    assert done.returncode == 0, done.stderr
    assert f"kit up --model {output}" in done.stdout
    return output


def test_convert_serve_kill_and_serve_again(real_kit: Kit, converted: Path) -> None:
    first = real_kit.up("--json", "--model", str(converted))
    assert first.returncode == 0, first.stderr
    report = json.loads(first.stdout)
    assert (report["model"], report["dtype"], report["device"]) == ("golden", "bfloat16", "cpu")
    assert report["answer"]
    ram = report["memory"]["ram"]
    assert abs(ram["peak_bytes"] - ram["plan_bytes"]) <= ram["plan_bytes"] / 10
    kill(report["pid"])
    again = real_kit.up("--json", "--model", str(converted))
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["answer"] == report["answer"]
    assert real_kit("status").returncode == 0


def test_the_demo_answers_what_it_was_taught(real_kit: Kit) -> None:
    environ = {k: v for k, v in real_kit.environ.items() if k != "KIT_MODEL"}
    done = replace(real_kit, environ=environ).up("--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    taught = {entry.canonical: entry.answer for entry in load_entries()}
    assert report["demo"] is True
    assert report["answer"] == taught["What is spark-kit?"]


def test_weights_of_another_model_are_refused(real_kit: Kit, converted: Path) -> None:
    config = json.loads((converted / "config.json").read_text())
    (converted / "config.json").write_text(json.dumps(config | {"intermediate_size": 256}))
    done = real_kit.up("--model", str(converted))
    assert done.returncode == 4
    assert "config.json" in done.stderr.split("error: ")[1]
    assert real_kit("status").returncode == 1
