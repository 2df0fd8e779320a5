"""The kit from the doctor to the receipt on a GPU server, on the pretended card.

`kit up`, `kit memory assert`, both engines, the loaders' comparison, an upgrade, a breach, a card
that is full, and one that is lost while it serves.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import measured_on
import pytest
from kit_process import REPOSITORY, Kit, wait_until

from kit.lock import read_lock
from kit.settings import bundled
from kit.upstream.render import MEGATRON
from tests.gpu.pretended_machine import Card
from tests.stand_in_megatron import install

pytestmark = pytest.mark.e2e

GOLDEN = REPOSITORY / "tests" / "golden" / "data" / "a"
LOOKED_AT = ("gpu.driver", "gpu.visible", "torch.build", "torch.driver", "torch.architecture")
SMALL = ("--layers", "2", "--hidden", "128", "--ffn", "384", "--vocab", "1536")
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


@pytest.fixture
def real_upstream(tmp_path: Path) -> dict[str, str]:
    """The rewritten real repository, as an installation has it."""
    clone = os.environ.get("KIT_UPSTREAM_DIR")
    if not clone:
        pytest.skip("KIT_UPSTREAM_DIR names no clone of the real Spark repository")
    environ = {"KIT_UPSTREAM_TREE": str(tmp_path / "real")}
    for words in (("fetch", "--from", clone), ("render",)):
        command = [sys.executable, "-m", "kit", "upstream", *words]
        subprocess.run(command, env=os.environ | environ, check=True, cwd=REPOSITORY)
    return environ


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


def test_upstream_itself_serves_on_it(
    machine: Machine, checkpoint: Path, real_upstream: dict[str, str]
) -> None:
    kit, _ = machine(24)
    kit.environ.update(real_upstream)
    up = kit.up("--engine", "megatron", "--model", str(checkpoint), "--context", "256")
    assert up.returncode == 0, up.stderr
    assert receipts(kit)[0]["service"]["upstream_commit"] == read_lock(bundled("kit.lock")).commit


def test_its_loaders_are_compared_on_it(
    machine: Machine, checkpoint: Path, real_upstream: dict[str, str], tmp_path: Path
) -> None:
    """Upstream as published holds the fp32 checkpoint beside the bf16 model: 1.5 of the file."""
    kit, _ = machine(24)
    kit.environ.update(real_upstream)
    receipt = tmp_path / "loaders.json"
    options = ("--device", "cuda", "--rounds", "1", "--json", str(receipt))
    done = kit("bench", "loaders", str(checkpoint), *options)
    assert done.returncode == 0, done.stderr
    told = json.loads(receipt.read_bytes())
    held = {run["loader"]: run["device_allocated_bytes"] for run in told["runs"]}
    size = told["checkpoint_bytes"]
    assert held["stock"] == pytest.approx(1.5 * size, rel=0.05)
    for loader in ("cpu-first", "stream", "native"):
        assert held[loader] == pytest.approx(0.5 * size, rel=0.05)
    assert told["machine"]["simulated"]
    assert sorted(path.name for path in checkpoint.iterdir()) == sorted(
        ["config.json", "mp_rank_00_model_states.pt", "tokenizer.model"]
    )


COMPARE = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from kit.bench.loaders import LOADERS, Sources, compare_loaders
checkpoint, converted, tree = map(Path, sys.argv[1:])
trees = {loader: tree for loader, groups in LOADERS.items() if groups}
sources = Sources(checkpoint, converted, trees)
runs = compare_loaders(sources, device="cuda", dtype="bfloat16", rounds=1)
print(json.dumps([asdict(run) for run in runs], default=str))
"""


def test_loaders_are_measured_on_it(machine: Machine, checkpoint: Path, tmp_path: Path) -> None:
    """With the stand-in for upstream, which loads in one way whatever its name is."""
    kit, _ = machine(24)
    (tmp_path / "upstream").mkdir()
    environ = kit.environ | install(tmp_path / "upstream")
    converted = tmp_path / "converted"
    assert kit("weights", "convert", str(checkpoint), str(converted)).returncode == 0
    tree = tmp_path / "upstream" / "upstream" / "rewritten" / MEGATRON
    command = [sys.executable, "-c", COMPARE, str(checkpoint), str(converted), str(tree)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout)
    assert [run["loader"] for run in runs] == ["stock", "cpu-first", "stream", "native"]
    for run in runs:
        assert run["device_allocated_bytes"] >= run["weights_bytes"] > 0
        assert run["device_reserved_bytes"] >= run["device_allocated_bytes"]
        assert run["device_used_bytes"] > 560 << 20


def test_the_gpu_proof_is_rehearsed(machine: Machine, tmp_path: Path) -> None:
    """scripts/bench_gpu.py from end to end at a small size; its receipts count for nothing."""
    kit, _ = machine(24)
    paths = (kit.environ["PYTHONPATH"], str(REPOSITORY / "scripts"))
    shown = tmp_path / "receipts"
    options = [
        "--receipts",
        shown,
        *["--layers", "2", "--hidden", "128", "--ffn", "384", "--vocab", "1536"],
    ]
    script = REPOSITORY / "scripts" / "bench_gpu.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path / "bench", *options],
        env=kit.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    stages = {path.stem: json.loads(path.read_bytes()) for path in shown.glob("gpu-*.json")}
    for name in ("demo", "bf16", "breach", "int8", "int4"):
        assert f"{name}: passed" in done.stdout, done.stdout + done.stderr
        assert stages[f"gpu-{name}"]["machine"]["simulated"]
    assert stages["gpu-int8"]["figures"]["decode"]["tokens_per_second"] > 0
    assert stages["gpu-breach-memory"]["outcome"] == "breached"
    assert "not shown: loaders (there is no upstream tree" in done.stdout
    assert measured_on.read_receipts(shown) == []
    assert not [path for path in (tmp_path / "bench").iterdir() if path.name != "state"]


def test_make_up_works_the_first_time(machine: Machine) -> None:
    """With the environment that runs the tests, which is what `make setup` makes: what stands in it
    is taken as it is, or make would bring torch for CUDA in.
    """
    kit, _ = machine(32)
    made = [part for name in (".cli", ".torch", ".native") for part in ("-o", f".venv/{name}")]
    done = subprocess.run(
        ["make", *made, "up", "ARGS=--model demo"],
        cwd=REPOSITORY,
        env=kit.environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "bfloat16 on cuda:0" in done.stdout
    assert receipts(kit)[-1]["outcome"] == "held"
