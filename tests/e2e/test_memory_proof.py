"""`kit memory watch`, `explain` and `hold` with the real server and a small real model."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from kit_process import REPOSITORY, Kit, alive, wait_until

from kit.memory.timeline import read_timeline

pytest.importorskip("torch", reason="needs the native extra")
pytest.importorskip("matplotlib", reason="needs the plot extra")
pytestmark = pytest.mark.e2e

SCHEMA = json.loads((REPOSITORY / "docs/receipt.schema.json").read_text(encoding="utf-8"))
FULL = ("--context", "512", "--max-sequences", "2")


@pytest.fixture(scope="module")
def small_model(make_model) -> Path:
    return make_model(max_position_embeddings=512, sliding_window=128)


@pytest.fixture
def real_kit(kit: Kit, small_model: Path) -> Kit:
    return replace(
        kit, program=("-m", "kit"), environ=kit.environ | {"KIT_MODEL": str(small_model)}
    )


def receipt_at(path: Path) -> dict:
    record = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.validate(record, SCHEMA)
    return record


def test_hold_proves_the_full_context_and_stops_what_it_started(real_kit: Kit, tmp_path: Path):
    path = tmp_path / "proof" / "receipt.json"
    done = real_kit("memory", "hold", *FULL, "--receipt", str(path))
    assert done.returncode == 0, done.stderr
    assert "held its memory budget" in done.stdout
    assert "full context, 2 x 512 tokens" in done.stdout
    assert "of the plan" in done.stdout
    record = receipt_at(path)
    assert record["outcome"] == "held"
    assert record["work"]["sequences"] == 2
    assert record["work"]["prompt_tokens"] + record["work"]["generated_tokens"] == 512
    assert (record["service"]["context_length"], record["service"]["max_sequences"]) == (512, 2)
    assert record["service"]["torch"]
    assert record["pools"].keys() == {"host"}
    phases = {phase["phase"] for phase in record["phases"]}
    assert phases >= {"starting", "prefill", "decode"}
    assert (tmp_path / "proof/receipt.png").read_bytes().startswith(b"\x89PNG")
    assert "prefill" in (tmp_path / "proof/receipt.html").read_text(encoding="utf-8")
    timeline = read_timeline(tmp_path / "proof/receipt.jsonl")
    host = record["pools"]["host"]
    assert max(sample.peak_bytes for sample in timeline.samples) <= host["peak_bytes"]
    assert timeline.run.budget_bytes["host"] == host["budget_bytes"]
    assert real_kit("status").returncode == 1


def test_a_breach_has_a_receipt_and_code_5(real_kit: Kit, tmp_path: Path):
    path = tmp_path / "receipt.json"
    done = real_kit(
        "memory", "hold", *FULL, "--max-ram", "100MiB", "--receipt", str(path), "--json"
    )
    assert done.returncode == 5, done.stderr
    record = receipt_at(path)
    assert record["outcome"] == "breached"
    assert record["pools"]["host"]["peak_bytes"] > record["pools"]["host"]["budget_bytes"]
    printed = json.loads(done.stdout)
    assert printed["receipt"] == record
    assert printed["files"][0] == str(path)
    assert "over the budget of 100.0 MiB" in done.stderr
    assert real_kit("status").returncode == 1


def test_up_writes_a_receipt_and_hold_measures_the_service_that_runs(real_kit: Kit):
    up = real_kit.up(*FULL, "--json")
    assert up.returncode == 0, up.stderr
    report = json.loads(up.stdout)
    assert report["work"]["sequences"] == 2
    assert report["skipped"] is None
    first = receipt_at(Path(report["receipt"]))
    assert first["outcome"] == "held"
    done = real_kit("memory", "hold", "--json")
    assert done.returncode == 0, done.stderr
    second = json.loads(done.stdout)["receipt"]
    jsonschema.validate(second, SCHEMA)
    assert (second["outcome"], second["service"]) == ("held", first["service"])
    assert "starting" not in {phase["phase"] for phase in second["phases"]}
    refused = real_kit("memory", "hold", "--context", "256")
    assert refused.returncode == 2
    assert "the running service has other settings (context, max sequences)" in refused.stderr
    assert real_kit.pid == report["pid"]
    again = real_kit.up(*FULL, "--json")
    assert json.loads(again.stdout)["receipt"] is None
    assert json.loads(again.stdout)["skipped"] == "it was running already"
    explained = real_kit("memory", "explain")
    assert "host RAM: the most at once was" in explained.stdout
    assert explained.stdout.endswith(".jsonl\n")


def test_up_without_the_exercise_says_so(real_kit: Kit):
    done = real_kit.up(*FULL, "--no-exercise")
    assert done.returncode == 0, done.stderr
    assert "one answer; its context was not filled: as was asked for" in done.stdout
    (path,) = (real_kit.home / "state/spark-kit/receipts").glob("*.json")
    assert receipt_at(path)["work"] is None


def test_watch_waits_for_a_service_and_sees_it_from_start_to_end(real_kit: Kit, tmp_path: Path):
    files = {name: tmp_path / f"watched.{name}" for name in ("jsonl", "png", "html")}
    pictures = ("--png", str(files["png"]), "--html", str(files["html"]))
    watch = real_kit.start("memory", "watch", "--output", str(files["jsonl"]), *pictures)
    assert watch.stderr is not None
    assert "waiting for a service" in watch.stderr.readline()
    assert real_kit.up(*FULL).returncode == 0
    assert real_kit("down").returncode == 0
    out, err = watch.communicate(timeout=60)
    assert watch.returncode == 0, err
    assert "the service was stopped" in out
    assert "host RAM: the most at once was" in out
    assert max(map(len, out.splitlines()[:5])) <= 80
    phases = [name for name, _, _ in read_timeline(files["jsonl"]).spans()]
    assert phases[0] == "starting"
    assert "serving" in phases
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in files["html"].read_text(encoding="utf-8")


def test_watch_ends_orderly_at_ctrl_c_and_explain_knows_its_timeline(real_kit: Kit):
    assert real_kit.up(*FULL).returncode == 0
    watch = real_kit.start("memory", "watch")
    folder = real_kit.home / "state/spark-kit/timelines"
    wait_until(lambda: any(path.stat().st_size > 2000 for path in folder.glob("*.jsonl")))
    watch.send_signal(signal.SIGINT)
    out, err = watch.communicate(timeout=60)
    assert watch.returncode == 0, err
    assert "timeline: " in out
    (path,) = folder.glob("*.jsonl")
    assert f"timeline: {path}" in real_kit("memory", "explain").stdout
    assert alive(real_kit.pid)


def test_watch_with_no_service_ends_after_its_time(kit: Kit):
    done = kit("memory", "watch", "--seconds", "1")
    assert done.returncode == 6
    assert "nothing was started within 1 s" in done.stderr


def test_watch_on_a_terminal(real_kit: Kit):
    assert real_kit.up(*FULL).returncode == 0
    screen, terminal = pty.openpty()
    environ = {**real_kit.environ, "TERM": "xterm", "LINES": "24"}
    environ.pop("NO_COLOR")
    command = [sys.executable, "-m", "kit", "memory", "watch", "--seconds", "2"]
    process = subprocess.Popen(command, env=environ, stdout=terminal, stderr=terminal)
    os.close(terminal)
    shown = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            shown += os.read(screen, 65536)
        except OSError:  # its end
            break
    assert process.wait(10) == 0
    text = shown.decode()
    assert "at most, ┊ plan" in text
    assert "VRAM      " in text
    assert "host RAM: the most at once was" in text


def test_a_place_that_cannot_be_written(real_kit: Kit, tmp_path: Path):
    (tmp_path / "file").touch()
    done = real_kit("memory", "hold", *FULL, "--receipt", str(tmp_path / "file/receipt.json"))
    assert done.returncode == 3
    assert "cannot be written" in done.stderr
    assert real_kit("status").returncode == 1
