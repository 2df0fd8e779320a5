import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kit.errors import ServiceError
from kit.runtime.local import LocalRuntime, serve_arguments
from kit.runtime.protocol import ServeSpec

SPEC = ServeSpec(Path("/models/spark"), "spark", "127.0.0.1", 8000, 4096, 2, "cpu")


def python(code):
    return (sys.executable, "-c", code)


@pytest.fixture
def runtime(tmp_path):
    """``runtime(code)``: a runtime whose server is this Python program."""
    made = []

    def make(code, **options):
        made.append(LocalRuntime(tmp_path, server_command=python(code), **options))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def wait_for_log(runtime, text):
    deadline = time.monotonic() + 30
    while text not in list(runtime.logs(50, this_run=True)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_arguments():
    assert serve_arguments(SPEC) == (
        "/models/spark",
        *("--host", "127.0.0.1", "--port", "8000", "--name", "spark"),
        *("--context", "4096", "--max-sequences", "2", "--device", "cpu"),
    )
    megatron = replace(SPEC, engine="megatron", max_ram_bytes=5, max_vram_bytes=7)
    assert serve_arguments(megatron)[1:3] == ("--engine", "megatron")
    assert serve_arguments(megatron)[-4:] == ("--max-ram", "5B", "--max-vram", "7B")


def test_start_status_stop(runtime):
    service = runtime("import time; print('hello'); time.sleep(600)")
    assert service.status() is None
    started = service.start(SPEC)
    assert service.status() == started
    assert (started.spec, started.alive) == (SPEC, True)
    wait_for_log(service, "hello")
    assert os.getsid(started.pid) == started.pid
    assert service.stop()
    assert service.status() is None
    assert not service.stop()


@pytest.mark.parametrize(
    ("code", "expected"),
    [("raise SystemExit(4)", 4), ("import os; os.kill(os.getpid(), 9)", 137)],
)
def test_exit_code(runtime, code, expected):
    service = runtime(code)
    service.start(SPEC)
    deadline = time.monotonic() + 30
    while (now := service.status()) and now.alive:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert now is not None
    assert now.exit_code == expected


def test_a_deaf_server_and_its_children_are_killed(runtime):
    code = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("child", os.fork() or os.getpid(), flush=True)
print("deaf", flush=True)
time.sleep(600)
"""
    service = runtime(code, grace_seconds=0.2)
    service.start(SPEC)
    wait_for_log(service, "deaf")
    lines = [line for line in service.logs(9, this_run=True) if line.startswith("child")]
    assert service.stop()
    for pid in {line.split()[1] for line in lines}:
        stat = Path(f"/proc/{pid}/stat")
        assert not stat.exists() or ") Z " in stat.read_text()


def test_this_runs_log_starts_after_the_earlier_ones(runtime):
    service = runtime("import time; print('hello'); time.sleep(600)")
    for _ in range(2):
        service.start(SPEC)
        wait_for_log(service, "hello")
        service.stop()
    assert list(service.logs(50)).count("hello") == 2
    service.start(SPEC)
    wait_for_log(service, "hello")
    assert list(service.logs(50, this_run=True)).count("hello") == 1


def test_a_long_log_is_set_aside(runtime, tmp_path):
    service = runtime("pass")
    service.log_file.write_bytes(b"x" * (10 * 2**20 + 1))
    service.start(SPEC)
    assert service.log_file.stat().st_size < 1000
    assert (tmp_path / "service.log.1").stat().st_size > 10 * 2**20


def test_a_server_that_is_not_there(tmp_path):
    service = LocalRuntime(tmp_path, server_command=("/no/such/program",))
    with pytest.raises(ServiceError, match="cannot start /no/such/program"):
        service.start(SPEC)
    assert service.status() is None
