"""`kit up` when something is wrong: what it says, its exit code, what it leaves behind."""

import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from kit_process import Kit

pytestmark = pytest.mark.e2e


def test_busy_port_names_its_holder(kit: Kit) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", kit.port))
        other.listen()
        done = kit.up()
    assert done.returncode == 3
    assert f"port {kit.port} is not free: process {os.getpid()} (" in done.stderr
    assert f"--port {kit.port + 1}" in done.stderr
    assert not kit.state_file.exists()


def test_server_that_refuses_to_load_passes_on_its_error(kit: Kit) -> None:
    done = kit.up(STAND_IN="load_error")
    assert done.returncode == 4
    assert "error: the server ended: the weights are damaged\n" in done.stderr
    assert "hint: convert them again\n" in done.stderr
    assert kit("status").returncode == 1


def test_server_that_crashes_shows_its_log(kit: Kit) -> None:
    done = kit.up(STAND_IN="crash")
    assert done.returncode == 6
    assert "log │ RuntimeError: boom" in done.stderr
    assert "exit code 1" in done.stderr


def test_server_without_memory_says_so(kit: Kit) -> None:
    done = kit.up(STAND_IN="out_of_memory")
    assert done.returncode == 6
    assert "host memory ran out" in done.stderr


def test_server_that_never_gets_ready_is_stopped(kit: Kit) -> None:
    done = kit.up("--timeout", "2", STAND_IN="never_ready")
    assert done.returncode == 6
    assert "not ready after 2 s, while loading the weights" in done.stderr
    assert "--timeout" in done.stderr
    assert kit("status").returncode == 1


def test_server_without_an_answer_is_stopped(kit: Kit) -> None:
    done = kit.up(STAND_IN="no_answer")
    assert done.returncode == 6
    assert "status 500" in done.stderr
    assert "the engine has died" in done.stderr
    assert kit("status").returncode == 1


def test_breached_budget_stops_the_service(kit: Kit) -> None:
    done = kit.up("--max-ram", "5MiB")
    assert done.returncode == 5
    assert "was stopped: it took more memory than its budget" in done.stdout
    assert "over the budget of 5.0 MiB" in done.stderr
    assert "--max-ram" in done.stderr
    assert kit("status").returncode == 1
    assert kit("health").returncode == 6


def test_breached_budget_as_json(kit: Kit) -> None:
    done = kit.up("--json", KIT_MAX_RAM="5MiB")
    assert done.returncode == 5
    report = json.loads(done.stdout)
    assert report["within_budget"] is False
    assert report["stopped"] is True
    assert "stopped the service" in done.stderr
    assert report["memory"]["ram"]["peak_bytes"] > report["memory"]["ram"]["budget_bytes"]


def test_a_breach_while_serving_is_in_the_receipt(
    kit: Kit, model_dir: Path, tmp_path: Path
) -> None:
    receipt = tmp_path / "receipt.json"
    assert kit.up().returncode == 0
    (model_dir / "over").touch()
    done = kit("memory", "assert", "--receipt", str(receipt))
    assert done.returncode == 5
    assert "error: peak host RAM\nhint: --max-ram\n" in done.stderr
    record = json.loads(receipt.read_text(encoding="utf-8"))
    assert (record["outcome"], record["while_serving"]) == ("breached", ["peak host RAM"])
    assert kit("status").returncode == 6  # what ran before goes on


def test_running_service_is_held_against_a_new_budget(kit: Kit) -> None:
    kit.up()
    assert kit.up("--max-ram", "5MiB", "--no-preflight").returncode == 5
    assert kit("status").returncode == 1


def test_limited_address_space_is_refused_before_starting(kit: Kit) -> None:
    done = kit.up(prefix="ulimit -v 1500000;")
    assert done.returncode == 3
    assert "not enough address space (ulimit -v):" in done.stderr
    assert "1.43 GiB there" in done.stderr
    assert not kit.state_file.exists()
    assert kit.up("--no-preflight", prefix="ulimit -v 1500000;").returncode == 0


def test_no_gpu_for_cuda(kit: Kit) -> None:
    done = kit.up("--device", "cuda")
    assert done.returncode == 3
    assert "error: --device cuda, but no GPU can be used" in done.stderr
    assert "plan:" not in done.stderr
    assert not kit.log_file.exists()


def test_missing_packages_are_found_before_anything_is_done(kit: Kit, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    paths = f"{tmp_path}:{kit.environ['PYTHONPATH']}"
    done = replace(kit, program=("-m", "kit")).up("--model", "demo", PYTHONPATH=paths)
    assert done.returncode == 3
    assert "not installed: torch" in done.stderr or ", torch" in done.stderr
    assert "make setup" in done.stderr
    assert "make setup" in done.stderr
    assert not (kit.home / "data").exists()
    assert not kit.log_file.exists()


@pytest.mark.parametrize(
    ("command", "place"), [("up", "a-file"), ("down", "a-file"), ("up", "/proc/spark-kit")]
)
def test_unusable_state_folder(kit: Kit, tmp_path: Path, command: str, place: str) -> None:
    (tmp_path / "a-file").touch()
    folder = tmp_path / place
    done = kit(command, KIT_STATE_DIR=str(folder))
    assert done.returncode == 3
    assert done.stderr.startswith(f"error: cannot write to {folder}")
    assert "hint: set KIT_STATE_DIR" in done.stderr


def test_unconverted_checkpoint_is_named(kit: Kit, tmp_path: Path) -> None:
    shard = tmp_path / "ckpt/mp_rank_00_model_states.pt"
    shard.parent.mkdir()
    shard.touch()
    done = kit.up("--model", str(shard.parent))
    assert done.returncode == 3
    assert f"kit weights convert {shard}" in done.stderr


def test_missing_model(kit: Kit) -> None:
    done = kit.up("--model", "nowhere")
    assert done.returncode == 3
    assert "there is no" in done.stderr


def test_truncated_weights(kit: Kit, model_dir: Path) -> None:
    weights = model_dir / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    done = kit.up()
    assert done.returncode == 4
    assert "model.safetensors is damaged" in done.stderr


def test_an_engine_that_does_not_answer_is_never_replaced_by_a_local_process(kit: Kit) -> None:
    done = kit.up("--runtime", "container", DOCKER_HOST="unix:///no/such.sock")
    assert done.returncode == 3
    assert "the Docker engine does not answer" in done.stderr or "Compose" in done.stderr
    assert "--runtime local" in done.stderr
    assert not kit.state_file.exists()


@pytest.mark.parametrize("size", ["24G", "much"])
def test_bad_size(kit: Kit, size: str) -> None:
    done = kit.up("--max-ram", size)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: not a size: '{size}'\nhint: ")
