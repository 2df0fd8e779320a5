"""The kit from the doctor to the receipt on a GPU server, on the pretended card.

`kit up`, `kit memory assert`, both engines, the loaders' comparison, an upgrade, a breach, a card
that is full, and one that is lost while it serves.
"""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from kit_process import REPOSITORY, Kit, wait_until

from tests.gpu.pretended_machine import Card
from tests.stand_in_megatron import install

pytestmark = pytest.mark.e2e

GOLDEN = REPOSITORY / "tests" / "golden" / "data" / "a"
LOOKED_AT = ("gpu.driver", "gpu.visible", "torch.build", "torch.driver", "torch.architecture")
Machine = Callable[[float], tuple[Kit, Card]]


def receipts(kit: Kit) -> list[dict[str, Any]]:
    """Those that were written, the oldest first."""
    folder = kit.home / "state" / "spark-kit" / "receipts"
    return [json.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))]


def chat(kit: Kit, **options: Any) -> httpx.Response:
    body = {"model": "demo", "messages": [{"role": "user", "content": "What is spark-kit?"}]}
    url = f"http://127.0.0.1:{kit.port}/v1/chat/completions"
    return httpx.post(url, json=body | options, timeout=60, trust_env=False)


@pytest.mark.parametrize("gib", [24, 32, 80])
def test_from_the_doctor_to_the_receipt(machine: Machine, gib: int) -> None:
    kit, _ = machine(gib)
    doctor = json.loads(kit("doctor", "--json").stdout)
    status = {finding["id"]: finding["status"] for finding in doctor["findings"]}
    assert {status[name] for name in LOOKED_AT} == {"pass"}
    up = kit.up("--model", "demo")
    assert up.returncode == 0, up.stderr
    assert "bfloat16 on cuda:0" in up.stdout
    assert "spark-kit is a deployment kit" in up.stdout
    assert chat(kit, temperature=0.8, top_k=40, top_p=0.9, seed=1).status_code == 200
    (receipt,) = receipts(kit)
    machine_, device = receipt["machine"], receipt["pools"]["device"]
    assert (machine_["simulated"], machine_["gpu_bytes"]) == (True, gib << 30)
    assert receipt["outcome"] == "held"
    assert receipt["service"]["device"] == "cuda:0"
    assert device["measured_by"] == "driver-by-process"
    assert 560 << 20 < device["peak_bytes"] <= device["planned_bytes"]


def test_the_peak_is_asserted(machine: Machine) -> None:
    kit, _ = machine(24)
    done = kit("memory", "assert", "--model", "demo")
    assert done.returncode == 0, done.stderr
    assert "demo held its memory budget" in done.stdout
    assert "on cuda:0 (simulated)" in done.stdout
    assert receipts(kit)[-1]["work"]["sequences"] == 8


def test_an_upgrade_and_the_way_back(machine: Machine) -> None:
    kit, _ = machine(24)
    assert kit.up("--model", "demo", "--no-exercise").returncode == 0
    done = kit("upgrade", "--context", "1024", "--no-exercise")
    assert done.returncode == 0, done.stderr
    assert "1024 tokens of context" in done.stdout
    back = kit("rollback", "--no-exercise")
    assert back.returncode == 0, back.stderr
    assert "2048 tokens of context" in back.stdout
    assert all(receipt["machine"]["simulated"] for receipt in receipts(kit))


def test_past_its_budget_it_does_not_come_up(machine: Machine) -> None:
    kit, _ = machine(24)
    done = kit.up("--model", "demo", "--no-preflight", "--max-vram", "604MiB")
    assert done.returncode == 5, done.stderr
    assert "the GPU ran out of memory" in done.stderr
    assert "--max-vram" in done.stderr
    (receipt,) = receipts(kit)
    assert (receipt["outcome"], receipt["machine"]["simulated"]) == ("breached", True)
    assert kit("status").returncode == 1


def test_a_full_card_is_said_to_be_full(machine: Machine) -> None:
    kit, _ = machine(1.01)  # the driver takes 512 MiB, CUDA 480: little is left
    refused = kit.up("--model", "demo")
    assert refused.returncode == 3
    assert "VRAM" in refused.stderr
    done = kit.up("--model", "demo", "--no-preflight")
    assert done.returncode in (5, 6), done.stderr
    assert "the GPU ran out of memory" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_card_that_is_lost_ends_the_service_with_the_reason(machine: Machine) -> None:
    kit, card = machine(24)
    assert kit.up("--model", "demo", "--no-exercise").returncode == 0
    card.lose()
    lost = chat(kit)
    assert lost.status_code in (500, 503)
    assert "the GPU failed: CUDA error: unspecified launch failure" in lost.text
    wait_until(lambda: kit("status").stdout.startswith("died"), 20)
    assert "the GPU failed: CUDA error" in kit("status").stdout
    assert kit.up("--model", "demo").returncode == 3


def test_a_graphics_card_is_no_longer_asked_for_when_the_cpu_is_named(machine: Machine) -> None:
    kit, _ = machine(24)
    up = kit.up("--model", "demo", "--device", "cpu", "--no-exercise")
    assert up.returncode == 0, up.stderr
    assert "VRAM      none: no GPU in use" in up.stdout


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A tiny one in upstream's format."""
    folder = tmp_path / "spark"
    folder.mkdir()
    shutil.copy(GOLDEN / "ckpt" / "mp_rank_00_model_states.pt", folder)
    shutil.copy(GOLDEN / "config.json", folder)
    shutil.copy(GOLDEN / "tokenizer" / "tokenizer.model", folder)
    return folder


def test_upstreams_code_serves_on_it(machine: Machine, checkpoint: Path, tmp_path: Path) -> None:
    kit, _ = machine(24)
    (tmp_path / "upstream").mkdir()
    kit.environ.update(install(tmp_path / "upstream"))
    up = kit.up("--engine", "megatron", "--model", str(checkpoint), "--context", "256")
    assert up.returncode == 0, up.stderr
    (receipt,) = receipts(kit)
    assert receipt["service"]["engine"] == "megatron"
    assert receipt["service"]["device"] == "cuda"
    assert receipt["pools"]["device"]["peak_bytes"] > 560 << 20
    assert receipt["machine"]["simulated"]


def test_make_up_works_the_first_time(machine: Machine) -> None:
    """With the environment that runs the tests; it is what `make setup` makes."""
    kit, _ = machine(32)
    done = subprocess.run(
        ["make", "up", "ARGS=--model demo"],
        cwd=REPOSITORY,
        env=kit.environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "bfloat16 on cuda:0" in done.stdout
    assert receipts(kit)[-1]["outcome"] == "held"
