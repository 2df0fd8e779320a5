"""`kit up` beside a service that already runs: what it must not take down."""

import json
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit_process import Kit, alive

pytestmark = pytest.mark.e2e


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("--context", "64", "--host", "203.0.113.7"), "is not an address of this machine"),
        (("--device", "cuda"), "no GPU can be used"),
        (("--model", "nowhere"), "there is no"),
    ],
)
def test_what_cannot_start_leaves_the_old_service(
    kit: Kit, change: tuple[str, ...], why: str
) -> None:
    kit.up()
    before = kit.pid
    done = kit.up(*change)
    assert done.returncode in (2, 3)
    assert why in done.stderr
    assert kit.pid == before
    assert kit("status").returncode == 0


def test_busy_new_port_leaves_the_old_service(kit: Kit, busy_port: int) -> None:
    kit.up()
    before = kit.pid
    done = kit.up("--port", str(busy_port))
    assert done.returncode == 3
    assert f"port {busy_port} is not free" in done.stderr
    assert f"the service that was running goes on (process {before})" in done.stderr
    assert kit.pid == before
    assert kit("status").returncode == 0


def test_missing_memory_leaves_the_old_service(kit: Kit) -> None:
    kit.up()
    before = kit.pid
    done = kit.up("--context", "64", prefix="ulimit -v 1500000;")
    assert done.returncode == 3
    assert "not enough address space" in done.stderr
    assert kit.pid == before
    assert kit("status").returncode == 0


def test_busy_server_is_neither_asked_nor_started_again(kit: Kit) -> None:
    assert kit.up(STAND_IN="busy").returncode == 0
    before = kit.pid
    done = kit.up()
    assert done.returncode == 0, done.stderr
    assert "It is busy with other requests" in done.stdout
    report = json.loads(kit.up("--json").stdout)
    assert (report["pid"], report["started"], report["answer"]) == (before, False, None)


def test_chinese_paths_in_a_locale_that_cannot_say_them(kit: Kit, model_dir: Path) -> None:
    folder = shutil.copytree(model_dir, model_dir.with_name("星火"))
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    plain |= {"XDG_STATE_HOME": str(kit.home / "状态"), "KIT_MODEL": str(folder)}
    first = kit.up("--json", **plain)
    assert first.returncode == 0, first.stderr
    record = json.loads(first.stdout)
    assert (record["model"], record["answer"]) == ("星火", "You said: 你好")
    readable = {**plain, "LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}
    again = kit.up("--json", **readable)
    assert json.loads(again.stdout)["pid"] == record["pid"], again.stderr
    assert "星火" in kit("logs", **readable).stdout
    assert kit("logs", **plain).returncode == 0
    assert '{"model": "\\u661f\\u706b"' in kit.up(**plain).stdout  # a line that can be pasted
    os.kill(record["pid"], signal.SIGKILL)
    died = kit.up(STAND_IN="crash", **plain)
    assert (died.returncode, "log ? RuntimeError: boom" in died.stderr) == (6, True), died.stderr
    assert kit("down", **plain).returncode == 0
    assert not alive(record["pid"])
