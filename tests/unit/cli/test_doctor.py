import json
import os
import pty
import re
import subprocess
import sys

import pytest

from kit.doctor.registry import CHECKS
from tests import nvml_driver

LOCAL = ("--offline", "--skip", "docker", "--skip", "image", "--skip", "service", "--skip", "disk")
"""What is the same on every machine that tests run on, and quick."""


@pytest.fixture
def environ(tmp_path):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("KIT_", "XDG_"))}
    return {**kept, "HOME": str(tmp_path), "DOCKER_HOST": "unix:///no/such/socket"}


def doctor(environ, *arguments):
    command = [sys.executable, "-m", "kit", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environ, check=False)


def test_json(environ):
    done = doctor(environ, *LOCAL, "--json")
    assert done.stderr == ""
    record = json.loads(done.stdout)
    assert [found["id"] for found in record["findings"]] == [each.id for each in CHECKS]
    assert sum(record["counts"].values()) == len(CHECKS)
    assert record["counts"]["error"] == 0
    for found in record["findings"]:
        if found["status"] in ("warn", "fail"):
            assert found["evidence"]
            assert found["remedy"]


def test_piped_it_is_plain_text_of_80_columns(environ):
    done = doctor(environ, *LOCAL)
    assert "\x1b" not in done.stdout
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert re.fullmatch(r"\d+ passed, \d+ warnings?, \d+ failures?, \d+ skipped", lines[-1])


def on_a_terminal(environ, *arguments) -> str:
    """What a terminal gets to see, stdout and stderr together."""
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "kit", "doctor", *arguments]
    process = subprocess.Popen(
        command, stdin=end, stdout=end, stderr=end, env={**environ, "TERM": "xterm"}
    )
    os.close(end)
    shown = b""
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        shown += chunk
    os.close(terminal)
    process.wait()
    return shown.decode()


COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def test_on_a_terminal_it_is_coloured_and_says_what_it_waits_for(environ):
    environ.pop("NO_COLOR", None)
    shown = on_a_terminal(environ, *LOCAL)
    assert "\x1b[32mpass" in shown
    assert "looking at" in shown


def test_no_color(environ):
    shown = on_a_terminal({**environ, "NO_COLOR": "1"}, *LOCAL)
    assert not [code for code in COLOURS.findall(shown) if re.search(r"3\d", code)]


def test_list_checks(environ):
    done = doctor(environ, "--list-checks")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert re.findall(r"^[a-z]+\.[a-z-]+", done.stdout, re.MULTILINE) == [c.id for c in CHECKS]
    listed = json.loads(doctor(environ, "--list-checks", "--json").stdout)["checks"]
    assert [entry["id"] for entry in listed] == [each.id for each in CHECKS]


def test_skip(environ):
    done = doctor(environ, *LOCAL, "--skip", "gpu", "--json")
    found = {each["id"]: each for each in json.loads(done.stdout)["findings"]}
    assert found["gpu.driver"]["summary"] == "skipped with --skip"
    assert found["docker.engine"]["status"] == "skip"


def test_skipping_what_is_none_is_wrong_usage(environ):
    done = doctor(environ, "--skip", "gpu.nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: there is no check 'gpu.nonsense'\nhint: ")


def test_strict_counts_warnings(environ):
    """No engine answers, which is a warning; everything that differs by machine is left out."""
    areas = ("gpu", "torch", "machine", "python", "memory", "disk", "service", "image", "clock")
    skip = [word for area in areas for word in ("--skip", area)]
    assert doctor(environ, "--offline", *skip).returncode == 0
    assert doctor(environ, "--offline", *skip, "--strict").returncode == 1
    assert doctor(environ, "--offline", *skip, "--skip", "docker", "--strict").returncode == 0


def test_a_failure_is_1(environ):
    done = doctor({**environ, "KIT_MAX_RAM": "1MiB"}, *LOCAL)
    assert done.returncode == 1
    assert "FAIL   budget.ram: the plan of demo passes the RAM budget" in done.stdout
    assert "remedy    allow more with --max-ram or KIT_MAX_RAM" in done.stdout


def test_a_gpu_that_others_use(environ, tmp_path):
    """The whole command on a machine whose driver is the stub."""
    driver = nvml_driver.build(tmp_path)
    played = nvml_driver.environ(driver, "tenants")
    done = doctor({**played, **environ, "LD_LIBRARY_PATH": str(driver)}, *LOCAL, "--json")
    found = {each["id"]: each for each in json.loads(done.stdout)["findings"]}
    assert done.returncode == 1
    assert found["gpu.driver"]["summary"].startswith("driver 580.65.06, CUDA 13.0: 1 GPU")
    assert found["kit.model"]["summary"].startswith("spark-13b-chat in int8 on the GPU")
    assert found["gpu.memory"]["status"] == "fail"
    assert "ollama (4712) 17.50 GiB" in found["gpu.memory"]["evidence"][1]["observed"]


def test_a_setting_that_cannot_be_understood_is_a_finding(environ):
    done = doctor({**environ, "KIT_MAX_VRAM": "24G"}, *LOCAL)
    assert done.returncode == 1
    assert "FAIL   kit.settings: not a size: '24G'" in done.stdout


def test_a_model_that_is_none_is_a_finding(environ, tmp_path):
    done = doctor(environ, *LOCAL, "--model", str(tmp_path / "none"), "--json")
    found = {each["id"]: each for each in json.loads(done.stdout)["findings"]}
    assert (done.returncode, found["kit.model"]["status"]) == (1, "fail")
    assert found["kit.model"]["summary"] == f"there is no {tmp_path / 'none'}"
    assert found["memory.ram"]["status"] == "skip"


def test_forty_columns_are_enough(environ):
    lines = doctor(environ | {"COLUMNS": "40"}, *LOCAL).stdout.splitlines()
    assert "pass   machine.platform" in lines
    assert all(len(line) <= 40 for line in lines[: lines.index("")])  # paths stay whole, below
