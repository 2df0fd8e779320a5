import stat
from dataclasses import replace
from pathlib import Path

import pytest

from kit.runtime import state as states
from kit.runtime.protocol import ImageRef, ServeSpec
from kit.runtime.state import Process, State

SPEC = ServeSpec(Path("/models/spark"), "spark", "127.0.0.1", 8000, 4096, 1, "cpu", "ab12")
PROCESS = Process(7, 77, "boot-1", 10, ("kit", "serve"))
STATE = State("local", SPEC, 1.5, process=PROCESS)
IMAGE = ImageRef("spark-kit:cpu", "sha256:12")
CONTAINER = State("container", replace(SPEC, image=IMAGE), 1.5, project="spark-kit")


@pytest.fixture
def proc(tmp_path):
    """A /proc in which process 7, started at tick 77, sleeps."""
    write_stat(tmp_path, "S")
    boot = tmp_path / "sys/kernel/random/boot_id"
    boot.parent.mkdir(parents=True)
    boot.write_text("boot-1\n")
    return tmp_path


def write_stat(proc, letter):
    (proc / "7").mkdir(exist_ok=True)
    (proc / "7/stat").write_text(f"7 (kit) {letter} 1 {'0 ' * 17}77 0\n")


@pytest.mark.parametrize("state", [STATE, CONTAINER])
def test_round_trip(tmp_path, state):
    path = tmp_path / "deep/service.json"
    states.write(path, state)
    assert states.read(path) == state
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["service.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 99}', '{"version": 2}'])
def test_unreadable_state_is_none(tmp_path, text):
    path = tmp_path / "service.json"
    path.write_text(text)
    assert states.read(path) is None


def test_missing_state_is_none(tmp_path):
    assert states.read(tmp_path / "service.json") is None


def test_alive(proc):
    assert states.is_alive(PROCESS, proc=proc)


@pytest.mark.parametrize("letter", ["Z", "X"])
def test_a_zombie_is_not_alive(proc, letter):
    write_stat(proc, letter)
    assert not states.is_alive(PROCESS, proc=proc)


@pytest.mark.parametrize("change", [{"pid": 8}, {"start_ticks": 78}, {"boot_id": "boot-2"}])
def test_another_process_is_not_taken_for_it(proc, change):
    assert not states.is_alive(replace(PROCESS, **change), proc=proc)


@pytest.mark.parametrize("name", ["星火", "caf\udce9"])
def test_any_path_is_kept_byte_for_byte(tmp_path, name):
    path = tmp_path / "service.json"
    state = replace(STATE, spec=replace(SPEC, model_dir=Path("/models") / name))
    states.write(path, state)
    assert states.read(path) == state
