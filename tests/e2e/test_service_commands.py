"""`kit down`, `status`, `health` and `logs`, with a stand-in for the server."""

import json
import subprocess
import sys

import pytest
from kit_process import Kit, alive, free_port, kill, wait_until

pytestmark = pytest.mark.e2e


def test_down_twice(kit: Kit) -> None:
    kit.up()
    pid = kit.pid
    assert json.loads(kit("down", "--json").stdout) == {"stopped": True}
    assert not alive(pid)
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
    wait_until(lambda: "loading: weights 41%" in kit("status").stdout)
    assert kit("status").returncode == 6
    assert kit("health").returncode == 6
    kit("down")
    process.communicate(timeout=60)


def test_logs(kit: Kit) -> None:
    nothing = kit("logs")
    assert (nothing.stdout, nothing.stderr) == ("", "no log: nothing was started\n")
    kit.up()
    assert "/health/ready" in kit("logs").stdout
    assert len(kit("logs", "-n", "2").stdout.splitlines()) == 2
    follower = kit.start("logs", "-f", "-n", "0")
    kit("health")
    kit("down")
    out, _ = follower.communicate(timeout=60)
    assert follower.returncode == 0
    assert "/health/ready" in out


def test_reused_pid_is_not_mistaken_for_the_service(kit: Kit) -> None:
    kit.up()
    kill(kit.pid)
    state = json.loads(kit.state_file.read_text())
    bystander = subprocess.Popen(["sleep", "600"])
    try:
        process = state["process"] | {"pid": bystander.pid}
        kit.state_file.write_text(json.dumps(state | {"process": process}))
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


def test_server_without_a_record_is_not_overlooked(kit: Kit) -> None:
    code = f"import socket, time; s = socket.create_server(('127.0.0.1', {kit.port}))"
    stray = subprocess.Popen([sys.executable, "-c", f"{code}; time.sleep(600)", "kit", "serve"])
    try:
        wait_until(lambda: kit("status").stdout.startswith(f"process {stray.pid} is a kit serve"))
        assert kit("status").returncode == 1
        done = kit("down")
        assert (done.returncode, f"kill {stray.pid}" in done.stdout) == (1, True)
        record = json.loads(kit("down", "--json").stdout)
        where = f"process {stray.pid}"
        assert record == {"stopped": False, "stray": where, "stray_pid": stray.pid}
        assert stray.poll() is None
    finally:
        stray.kill()
        stray.wait()


def test_instances_are_told_apart(kit: Kit) -> None:
    """Also where nothing was started: another's server is no stray to be killed."""
    assert kit.up().returncode == 0
    first = kit.pid
    told = kit("status", "--instance", "b")
    assert (told.returncode, told.stdout) == (1, "not running; start it: kit up\n")
    assert kit("down", KIT_INSTANCE="b").stdout == "nothing was running\n"
    done = kit.up("--instance", "b", "--port", str(free_port()))
    assert done.returncode == 0, done.stderr
    assert kit("down", "--instance", "b").stdout == "stopped\n"
    assert kit("status").returncode == 0
    assert kit.pid == first


@pytest.mark.parametrize("name", ["../other", "B", "-b", "a b", ""])
def test_a_name_that_no_container_can_have_is_refused(kit: Kit, name: str) -> None:
    done = kit("status", "--instance", name)
    assert (done.returncode, "cannot be called" in done.stderr) == (
        (2, True) if name else (1, False)
    )


def test_down_while_up_waits_ends_both(kit: Kit) -> None:
    process = kit.start("up", STAND_IN="never_ready")
    wait_until(kit.state_file.exists)
    assert kit("down").returncode == 0
    _, err = process.communicate(timeout=60)
    assert process.returncode == 6
    assert "stopped" in err
