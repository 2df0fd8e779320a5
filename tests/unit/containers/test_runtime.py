"""Whose a container is: told by the state folder; with an engine and a Compose of our own."""

import json
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kit.containers.docker import Container, Death
from kit.containers.runtime import ContainerRuntime
from kit.errors import EnvironmentNotReady
from kit.runtime import state as states
from kit.runtime.orphan import owner_of
from kit.runtime.protocol import Image, ImageRef, ServeSpec
from kit.runtime.state import State
from kit.service.status import status

SPEC = ServeSpec(Path("/models/m"), "m", "127.0.0.1", 8000, 64, 1, "cpu")
COMPOSE = """
import json, sys
if "version" in sys.argv:
    print("1.29.2")
else:
    open(sys.argv[0] + ".log", "a").write(json.dumps(sys.argv[1:]) + "\\n")
"""
CONTAINER = Container(
    "d13a", "spark-kit-spark-cpu-1", "spark-kit", "spark-cpu", "sha256:1", True, 0, 0, False, "",
    0.0, 0, "healthy", None,
)  # fmt: skip


class StandInEngine:
    """Has the containers that it is given."""

    def __init__(self, *found: Container) -> None:
        self.found = found
        self.guests: frozenset[str] = frozenset()
        self.images: dict[str, Image] = {}

    def attached(self, network: str) -> frozenset[str]:
        assert network == "spark-kit_default"
        return frozenset(each.identity for each in self.found) | self.guests

    def containers(self, project: str) -> tuple[Container, ...]:
        return tuple(each for each in self.found if each.project == project)

    def logs(self, container: str, lines: int, *, follow: bool = False) -> list[str]:
        return [f"log of {container}"]

    def image(self, name: str) -> Image | None:
        return self.images.get(name)

    def platform(self) -> str:
        return "linux/amd64"

    def deaths(self, container: str, since: float) -> tuple[Death, ...]:
        return (Death(1, out_of_memory=False),)


@pytest.fixture
def commands(tmp_path):
    """What Compose was called with, by ``runtime``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "docker-compose"
    program.write_text(f"#!{sys.executable}\n{COMPOSE}")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    log = folder / "docker-compose.log"
    return lambda: (
        [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    )


def runtime_of(tmp_path, name, *found, started=False):
    folder = tmp_path / name
    made = ContainerRuntime(
        folder, environ={"PATH": str(tmp_path / "bin"), "DOCKER_HOST": "unix:///nowhere"}
    )
    made.engine = StandInEngine(*found)  # type: ignore[assignment]
    if started:
        states.write(folder / states.FILE_NAME, State("container", SPEC, 0.0, project="spark-kit"))
    return made


def of(tmp_path, folder, **changes):
    return replace(CONTAINER, owner=owner_of(tmp_path / folder), **changes)


def test_another_kits_container_is_none_of_ours(tmp_path, commands):
    ours = runtime_of(tmp_path, "ours", of(tmp_path, "theirs"))
    assert ours.orphan(8000) is None
    assert not ours.stop()
    with pytest.raises(EnvironmentNotReady, match=f"state folder {tmp_path}/theirs$") as caught:
        ours.start(SPEC)
    assert "spark-kit-spark-cpu-1" in caught.value.message
    assert "docker rm" not in caught.value.hint
    assert "--instance" in caught.value.hint
    assert commands() == []
    assert ours.status() is None


def test_one_that_was_started_without_a_kit_is_left_alone_too(tmp_path, commands):
    ours = runtime_of(tmp_path, "ours", CONTAINER)
    assert ours.orphan(8000) is None
    with pytest.raises(EnvironmentNotReady, match="started without a kit"):
        ours.start(SPEC)
    assert commands() == []


def test_our_own_that_nobody_remembers_is_named(tmp_path, commands):
    orphan = runtime_of(tmp_path, "ours", of(tmp_path, "ours")).orphan(8000)
    assert orphan is not None
    assert orphan.remedy == "docker rm --force spark-kit-spark-cpu-1"


def test_a_stop_never_ends_what_another_kit_started(tmp_path, commands):
    """Ours is gone meanwhile, and its name, its project and its service are theirs."""
    ours = runtime_of(tmp_path, "ours", of(tmp_path, "theirs"), started=True)
    found = ours.status()
    assert found is not None
    assert not found.alive
    assert not ours.stop()
    assert commands() == []
    assert ours.status() is None


def test_beside_another_kits_service_ours_alone_is_removed(tmp_path, commands):
    theirs = of(tmp_path, "theirs", service="spark", name="spark-kit-spark-1")
    ours = runtime_of(tmp_path, "ours", theirs, of(tmp_path, "ours"), started=True)
    assert ours.stop()
    (command,) = commands()
    assert command[-4:] == ["rm", "--stop", "--force", "spark-cpu"]


def test_a_network_that_others_have_joined_stays(tmp_path, commands):
    """As the dashboard does, which `kit down` would else be refused for."""
    ours = runtime_of(tmp_path, "ours", of(tmp_path, "ours"), started=True)
    ours.engine.guests = frozenset({"prometheus"})
    assert ours.stop()
    assert commands()[0][-4:] == ["rm", "--stop", "--force", "spark-cpu"]


@pytest.mark.parametrize("owned", [True, False], ids=["ours", "of an earlier kit"])
def test_what_the_state_tells_of_is_ours(tmp_path, commands, owned):
    container = of(tmp_path, "ours") if owned else CONTAINER
    ours = runtime_of(tmp_path, "ours", container, started=True)
    assert ours.status().alive
    ours.require_vacancy()
    assert ours.stop()
    assert commands()[0][-1] == "down"


def test_the_owner_is_the_folder_however_it_is_reached(tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "state")
    assert owner_of(tmp_path / "link") == owner_of(tmp_path / "state")
    assert owner_of(tmp_path / "state") != owner_of(tmp_path / "other")
    assert owner_of(tmp_path / "state").endswith(f":{tmp_path}/state")


@pytest.mark.parametrize(
    ("restarting", "said"),
    [
        (False, "died: container spark-kit-spark-cpu-1 has ended; the server ended with exit code "
         "0: it was stopped from outside (docker stop"),
        (True, "has ended, and the engine tries again (4 times so far); "),
    ],
)  # fmt: skip
def test_what_has_ended_is_not_called_gone(tmp_path, commands, restarting, said):
    ended = of(tmp_path, "ours", running=False, restarting=restarting, restarts=4 * restarting)
    ours = runtime_of(tmp_path, "ours", ended, started=True)
    assert said in status(ours, 8000).detail


def test_what_is_gone_is(tmp_path, commands):
    found = status(runtime_of(tmp_path, "ours", started=True), 8000)
    assert found.detail.startswith("died: container of service spark-cpu is gone")


OLD, NEW = (Image(f"sha256:{digit * 64}", (), (), 0, {}) for digit in "ab")
KEPT = "spark-kit-proven:aaaaaaaaaaaa"


@pytest.mark.parametrize(
    ("images", "runs"),
    [
        ({"mine:1": OLD}, "mine:1"),
        ({"mine:1": NEW, KEPT: OLD}, KEPT),
        ({KEPT: OLD}, KEPT),
        ({"mine:1": NEW, KEPT: NEW}, OLD.identity),
        ({}, OLD.identity),
    ],
)
def test_an_image_whose_name_was_taken_runs_by_the_name_that_it_is_kept_by(
    tmp_path, commands, images, runs
):
    ours = runtime_of(tmp_path, "ours")
    ours.engine.images = images
    spec = replace(SPEC, image=ImageRef("mine:1", OLD.identity))
    assert ours.launch(spec).variables["KIT_IMAGE"] == runs


def test_an_image_is_looked_at_by_what_it_is_not_by_its_name(tmp_path, commands):
    ours = runtime_of(tmp_path, "ours")
    bad = replace(OLD, platform="linux/arm64", command=("kit",))
    ours.engine.images = {"mine:1": NEW, OLD.identity: bad}
    with pytest.raises(EnvironmentNotReady, match="image mine:1 is for linux/arm64"):
        ours.images.require_runnable(replace(SPEC, image=ImageRef("mine:1", OLD.identity)))
    ours.images.require_runnable(SPEC)
