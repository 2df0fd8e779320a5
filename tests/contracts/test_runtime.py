"""What kit/runtime/protocol.py promises to `kit up`: by a local process and by a container."""

import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kit.containers.docker import Engine
from kit.containers.runtime import ContainerRuntime
from kit.memory.probes.proc import process_memory
from kit.memory.unavailable import Unavailable
from kit.runtime import state as states
from kit.runtime.local import LocalRuntime
from kit.runtime.protocol import ImageRef, Running, Runtime, ServeSpec
from kit.units import MIB
from tests.container.conftest import context, engine, image  # noqa: F401  (fixtures)
from tests.container.stand_in import build_stand_in
from tests.e2e.kit_process import HERE

Behaving = Callable[..., Running]
STAND_IN = (sys.executable, str(HERE / "stand_in_server.py"))


@pytest.fixture
def spec(tmp_path: Path) -> ServeSpec:
    """The stand-in looks at no file of it."""
    model = tmp_path / "model"
    model.mkdir()
    return ServeSpec(model, "星火", "127.0.0.1", 0, 64, 2, "cpu", max_ram_bytes=512 * MIB)


@pytest.fixture
def environ() -> dict[str, str]:
    """Of the runtime and of what it starts."""
    return {**os.environ, "COMPOSE_PROJECT_NAME": f"spark-kit-test-{uuid.uuid4().hex[:8]}"}


@pytest.fixture(params=["local", pytest.param("container", marks=pytest.mark.container)])
def runtime(
    request: pytest.FixtureRequest, environ: dict[str, str], tmp_path: Path
) -> Iterator[Runtime]:
    folder = tmp_path / "state"
    made: Runtime = LocalRuntime(folder, server_command=STAND_IN, environ=environ)
    if request.param == "container":
        request.getfixturevalue("image")
        made = ContainerRuntime(folder, environ=environ)
    yield made
    made.stop()


@pytest.fixture
def behaving(
    runtime: Runtime, spec: ServeSpec, environ: dict[str, str], request: pytest.FixtureRequest
) -> Behaving:
    """``behaving(name)`` starts the stand-in that behaves so."""

    def start(behaviour: str = "ok") -> Running:
        environ["STAND_IN"] = behaviour
        if runtime.name == "local":
            return runtime.start(spec)
        name = build_stand_in(request.getfixturevalue("image"), behaviour)
        found = Engine().image(name)
        assert found is not None
        return runtime.start(replace(spec, image=ImageRef(name, found.identity)))

    return start


def until_ended(runtime: Runtime) -> Running:
    deadline = time.monotonic() + 60
    while (running := runtime.status()) and running.alive and not running.restarts:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert running is not None
    return running


def test_before_anything_was_started(runtime: Runtime) -> None:
    assert runtime.status() is None
    assert list(runtime.logs(5)) == []
    assert isinstance(runtime.processes(), Unavailable)
    assert not runtime.stop()


def test_what_is_started_runs_until_it_is_stopped(runtime: Runtime, behaving: Behaving) -> None:
    runtime.require_installed()
    started = behaving()
    running = runtime.status()
    assert running is not None
    assert (running.spec, running.alive) == (started.spec, True)
    assert isinstance(running.exit_code, Unavailable)
    assert runtime.name in ("local", running.where.partition(" ")[0])
    assert abs(running.started_at - time.time()) < 60
    assert runtime.stop()
    assert runtime.status() is None
    assert not runtime.stop()


def test_its_processes_are_this_machines(runtime: Runtime, behaving: Behaving) -> None:
    behaving()
    pids = runtime.processes()
    assert not isinstance(pids, Unavailable)
    running = runtime.status()
    assert running is not None
    assert pids[0] == running.pid
    assert not isinstance(process_memory(pids[0]), Unavailable)


@pytest.mark.parametrize(("behaviour", "code"), [("crash", 1), ("load_error", 4)])
def test_an_end_is_seen_with_its_exit_code(
    runtime: Runtime,
    behaving: Behaving,
    behaviour: str,
    code: int,
) -> None:
    behaving(behaviour)
    ended = until_ended(runtime)
    assert ended.exit_code == code
    assert not ended.out_of_memory
    assert any("weights are damaged" in each or "boom" in each for each in runtime.logs(20))
    runtime.stop()
    assert runtime.status() is None


def test_the_log_outlives_the_service(runtime: Runtime, behaving: Behaving) -> None:
    behaving("crash")
    until_ended(runtime)
    assert "RuntimeError: boom" in list(runtime.logs(50, this_run=True))
    assert list(runtime.logs(0)) == []
    runtime.stop()
    assert "RuntimeError: boom" in list(runtime.logs(50))


def test_following_ends_with_the_service(runtime: Runtime, behaving: Behaving) -> None:
    behaving("load_error")
    lines = list(runtime.logs(50, follow=True))
    assert "hint: convert them again" in lines


def test_one_can_be_started_after_another(runtime: Runtime, behaving: Behaving) -> None:
    first = behaving()
    runtime.stop()
    second = behaving()
    assert second.alive
    assert first.pid != second.pid


def test_asking_changes_nothing(runtime: Runtime, spec: ServeSpec, tmp_path: Path) -> None:
    launch = runtime.launch(replace(spec, image=ImageRef("spark-kit:none", "")))
    assert launch.command
    assert "KIT_API_KEY" not in launch.variables
    assert runtime.orphan(1) is None
    assert not (tmp_path / "state").exists()


def test_the_other_runtimes_service_is_left_alone(
    runtime: Runtime, behaving: Behaving, tmp_path: Path
) -> None:
    behaving()
    folder = tmp_path / "state"
    others: list[Runtime] = [LocalRuntime(folder), ContainerRuntime(folder)]
    (other,) = [each for each in others if each.name != runtime.name]
    assert other.status() is None
    assert not other.stop()
    assert states.read(folder / states.FILE_NAME) is not None
    running = runtime.status()
    assert running is not None
    assert running.alive
