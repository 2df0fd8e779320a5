"""`kit up` and its companions as real processes, with a stand-in for the server."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]


@dataclass
class Kit:
    """The command line with folders and a port of its own."""

    home: Path
    port: int
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def state_file(self) -> Path:
        return self.home / "state/spark-kit/service.json"

    @property
    def pid(self) -> int:
        return int(json.loads(self.state_file.read_text())["pid"])

    def start(self, *arguments: str, prefix: str = "", **environ: str) -> subprocess.Popen[str]:
        program = f'{prefix} exec "$@"'
        command = ("sh", "-c", program, "sh", sys.executable, str(HERE / "kit_with_stand_in.py"))
        return subprocess.Popen(
            (*command, *arguments),
            env={**self.environ, **environ},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __call__(
        self, *arguments: str, prefix: str = "", **environ: str
    ) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, prefix=prefix, **environ)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def up(
        self, *arguments: str, prefix: str = "", **environ: str
    ) -> subprocess.CompletedProcess[str]:
        return self("up", *arguments, prefix=prefix, **environ)


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """The headers of a tiny model: all that the stand-in and the plan look at."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    header = json.dumps({"w": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(64)
    (folder / "model.safetensors").write_bytes(data)
    shape = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128}
    shape |= {"vocab_size": 100, "max_position_embeddings": 256, "sliding_window": 128}
    (folder / "config.json").write_text(json.dumps(shape))
    return folder


@pytest.fixture
def kit(tmp_path: Path, model_dir: Path) -> Iterator[Kit]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("KIT_", "XDG_"))}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = inherited | {
        "PYTHONPATH": str(REPOSITORY),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "KIT_PORT": str(port),
        "KIT_MODEL": str(model_dir),
        "CUDA_VISIBLE_DEVICES": "",
        "NO_COLOR": "1",
        "COLUMNS": "80",
        "http_proxy": "http://127.0.0.1:9",
    }
    kit = Kit(tmp_path, port, environ)
    yield kit
    kit("down")


def test_up_answers_and_reports(kit: Kit) -> None:
    done = kit.up()
    assert done.returncode == 0, done.stderr
    assert "tiny is up" in done.stdout
    assert "You said: 你好" in done.stdout
    assert f"curl http://127.0.0.1:{kit.port}/v1/chat/completions" in done.stdout
    assert "host RAM  peak" in done.stdout
    assert "VRAM      none: no GPU in use" in done.stdout
    assert "weights 41%\n" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_second_up_changes_nothing(kit: Kit) -> None:
    first = json.loads(kit.up("--json").stdout)
    second = json.loads(kit.up("--json").stdout)
    assert first["started"] and not second["started"]
    assert first["pid"] == second["pid"]
    assert second["answer"] == "You said: 你好"


def test_up_with_other_options_restarts(kit: Kit) -> None:
    kit.up()
    before = kit.pid
    done = kit.up("--context", "64")
    assert done.returncode == 0, done.stderr
    assert "the running service has other settings (context); starting it again" in done.stderr
    assert kit.pid != before
    assert "64 tokens of context" in done.stdout


def test_json_has_everything_in_bytes(kit: Kit, model_dir: Path) -> None:
    report = json.loads(kit.up("--json").stdout)
    assert report["url"] == f"http://127.0.0.1:{kit.port}/v1"
    assert report["model"] == "tiny"
    assert report["model_dir"] == str(model_dir)
    assert report["demo"] is False
    assert report["within_budget"] is True
    ram = report["memory"]["ram"]
    assert 0 < ram["peak_bytes"] < ram["budget_bytes"] == ram["plan_bytes"]
    assert "vram" not in report["memory"]


def test_killed_server_is_healed(kit: Kit) -> None:
    kit.up()
    before = kit.pid
    os.kill(before, signal.SIGKILL)
    _wait_until(lambda: kit("status").returncode == 6)
    assert "died" in kit("status").stdout
    done = kit.up()
    assert done.returncode == 0, done.stderr
    assert f"the service had died (process {before} is gone); starting it again" in done.stderr
    assert kit.pid != before


def test_hung_server_is_replaced(kit: Kit) -> None:
    kit.up()
    before = kit.pid
    os.kill(before, signal.SIGSTOP)
    try:
        done = kit.up()
    finally:
        _kill(before)
    assert done.returncode == 0, done.stderr
    assert "the server hangs" in done.stderr
    assert kit.pid != before


def test_busy_port_names_its_holder(kit: Kit) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", kit.port))
        other.listen()
        done = kit.up()
    assert done.returncode == 3
    assert f"port {kit.port} is not free: process {os.getpid()} (" in done.stderr
    assert f"--port {kit.port + 1}" in done.stderr
    assert not kit.state_file.exists()


def test_reused_pid_is_not_mistaken_for_the_service(kit: Kit) -> None:
    kit.up()
    _kill(kit.pid)
    state = json.loads(kit.state_file.read_text())
    bystander = subprocess.Popen(["sleep", "600"])
    try:
        kit.state_file.write_text(json.dumps(state | {"pid": bystander.pid}))
        assert kit("status").returncode == 6
        assert json.loads(kit("down", "--json").stdout) == {"stopped": False}
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_damaged_state_file_counts_as_none(kit: Kit) -> None:
    kit.state_file.parent.mkdir(parents=True)
    kit.state_file.write_text("{")
    assert kit("status").returncode == 1
    assert kit.up().returncode == 0


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
    assert "not ready after 2 s (phase: weights)" in done.stderr
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
    assert report["memory"]["ram"]["peak_bytes"] > report["memory"]["ram"]["budget_bytes"]


def test_running_service_is_held_against_a_new_budget(kit: Kit) -> None:
    kit.up()
    assert kit.up("--max-ram", "5MiB").returncode == 5
    assert kit("status").returncode == 1


def test_limited_address_space_is_refused_before_starting(kit: Kit) -> None:
    done = kit.up(prefix="ulimit -v 1500000;")
    assert done.returncode == 3
    assert "not enough address space (ulimit -v): the plan needs" in done.stderr
    assert "1.43 GiB is free" in done.stderr
    assert not kit.state_file.exists()
    assert kit.up("--no-preflight", prefix="ulimit -v 1500000;").returncode == 0


def test_two_ups_at_once_start_one_service(kit: Kit) -> None:
    processes = [kit.start("up", "--json") for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    reports = [json.loads(out) for out, _ in outputs]
    assert sorted(report["started"] for report in reports) == [False, True]
    assert reports[0]["pid"] == reports[1]["pid"]
    assert any("another kit up is at work" in err for _, err in outputs)


def test_interrupted_up_stops_what_it_started(kit: Kit) -> None:
    process = kit.start("up", STAND_IN="never_ready")
    _wait_until(kit.state_file.exists)
    pid = kit.pid
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not _alive(pid)
    assert not kit.state_file.exists()


def test_down_while_up_waits_ends_both(kit: Kit) -> None:
    process = kit.start("up", STAND_IN="never_ready")
    _wait_until(kit.state_file.exists)
    assert kit("down").returncode == 0
    _, err = process.communicate(timeout=60)
    assert process.returncode == 6
    assert "stopped" in err


def test_down_twice(kit: Kit) -> None:
    kit.up()
    pid = kit.pid
    assert json.loads(kit("down", "--json").stdout) == {"stopped": True}
    assert not _alive(pid)
    again = kit("down")
    assert (again.returncode, again.stdout) == (0, "nothing was running\n")


def test_status_and_health(kit: Kit) -> None:
    stopped = kit("status", "--json")
    assert stopped.returncode == 1
    assert json.loads(stopped.stdout)["state"] == "stopped"
    assert kit("health").returncode == 6
    kit.up()
    ready = kit("status", "--json")
    assert ready.returncode == 0
    record = json.loads(ready.stdout)
    assert record["state"] == "ready"
    assert record["url"] == f"http://127.0.0.1:{kit.port}/v1"
    assert record["pid"] == kit.pid
    health = kit("health", "--json")
    assert (health.returncode, json.loads(health.stdout)["state"]) == (0, "ready")


def test_loading_service_is_not_healthy_yet(kit: Kit) -> None:
    process = kit.start("up", STAND_IN="never_ready")
    _wait_until(lambda: "loading: weights 41%" in kit("status").stdout)
    assert kit("status").returncode == 6
    assert kit("health").returncode == 6
    kit("down")
    process.communicate(timeout=60)


def test_api_key_is_sent_and_never_shown(kit: Kit) -> None:
    done = kit.up(KIT_API_KEY="sesame")
    assert done.returncode == 0, done.stderr
    assert '"Authorization: Bearer $KIT_API_KEY"' in done.stdout
    written = done.stdout + done.stderr + kit.state_file.read_text() + kit("logs").stdout
    assert "sesame" not in written
    changed = kit.up(KIT_API_KEY="other")
    assert changed.returncode == 0, changed.stderr
    assert "starting it again" in changed.stderr


def test_logs(kit: Kit) -> None:
    assert kit("logs").stdout == ""
    kit.up()
    assert "/health/ready" in kit("logs").stdout
    assert len(kit("logs", "-n", "2").stdout.splitlines()) == 2
    follower = kit.start("logs", "-f", "-n", "0")
    kit("health")
    kit("down")
    out, _ = follower.communicate(timeout=60)
    assert follower.returncode == 0
    assert "/health/ready" in out


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


def test_container_runtime_is_refused_plainly(kit: Kit) -> None:
    done = kit.up("--runtime", "container")
    assert done.returncode == 3
    assert "hint: use --runtime local" in done.stderr


@pytest.mark.parametrize("size", ["24G", "much"])
def test_bad_size(kit: Kit, size: str) -> None:
    done = kit.up("--max-ram", size)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: not a size: '{size}'\nhint: ")


def _wait_until(condition: object, seconds: float = 30.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the awaited state never came"
        time.sleep(0.05)


def _kill(pid: int) -> None:
    """SIGKILL, and wait until it is gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    _wait_until(lambda: not _alive(pid))


def _alive(pid: int) -> bool:
    """Whether ``pid`` runs; a zombie, which waits for its parent to notice, does not."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
