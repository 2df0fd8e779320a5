"""`kit up`: one service, started, kept, replaced or healed. The server is a stand-in."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from kit_process import Kit, alive, kill, wait_until

pytestmark = pytest.mark.e2e


def test_up_answers_and_reports(kit: Kit) -> None:
    done = kit.up()
    assert done.returncode == 0, done.stderr
    assert "tiny is up" in done.stdout
    assert "You said: 你好" in done.stdout
    assert f"curl --noproxy '*' http://127.0.0.1:{kit.port}/v1/chat/completions" in done.stdout
    assert _pasted(done.stdout)["messages"] == [{"role": "user", "content": "你好"}]
    assert "host RAM  peak" in done.stdout
    assert "VRAM      none: no GPU in use" in done.stdout
    assert "weights 41%\n" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def _pasted(summary: str) -> Any:
    """The body that the printed curl line sends when a shell reads it."""
    line = summary.partition("Try it:")[2].partition("Stop it")[0]
    stand_in = 'curl() { for last; do :; done; printf %s "$last"; }'
    done = subprocess.run(
        ["sh", "-c", f"{stand_in}\n{line}"], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


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
    assert 0 < ram["peak_bytes"] < ram["plan_bytes"] < ram["budget_bytes"]
    assert "vram" not in report["memory"]


def test_killed_server_is_healed(kit: Kit) -> None:
    kit.up()
    before = kit.pid
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: kit("status").returncode == 6)
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
        kill(before)
    assert done.returncode == 0, done.stderr
    assert "the server hangs" in done.stderr
    assert kit.pid != before


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
    wait_until(kit.state_file.exists)
    pid = kit.pid
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not alive(pid)
    assert not kit.state_file.exists()


def test_api_key_is_sent_and_never_shown(kit: Kit) -> None:
    done = kit.up(KIT_API_KEY="sesame")
    assert done.returncode == 0, done.stderr
    assert '"Authorization: Bearer $KIT_API_KEY"' in done.stdout
    written = done.stdout + done.stderr + kit.state_file.read_text() + kit("logs").stdout
    assert "sesame" not in written
    changed = kit.up(KIT_API_KEY="other")
    assert changed.returncode == 0, changed.stderr
    assert "starting it again" in changed.stderr
