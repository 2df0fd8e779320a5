"""The command line and an engine: a project, a port, folders and an image of their own."""

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.containers.compose import project_name
from tests.container.containers import docker, labelled
from tests.container.stand_in import build_stand_in
from tests.e2e.kit_process import REPOSITORY, Kit, free_port, write_tiny_model

PROJECT = "com.docker.compose.project"


@pytest.fixture(scope="session")
def stand_in_image(image: str) -> str:
    return build_stand_in(image, "ok")


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny")


@pytest.fixture
def kit(tmp_path: Path, model_dir: Path, stand_in_image: str) -> Iterator[Kit]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("KIT_", "XDG_"))}
    port = free_port()
    project = f"spark-kit-test-{uuid.uuid4().hex[:8]}"
    environ = inherited | {
        "PYTHONPATH": str(REPOSITORY),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "COMPOSE_PROJECT_NAME": project,
        "KIT_PORT": str(port),
        "KIT_MODEL": str(model_dir),
        "KIT_RUNTIME": "container",
        "KIT_DEVICE": "cpu",
        "KIT_IMAGE": stand_in_image,
        "NO_COLOR": "1",
        "COLUMNS": "80",
    }
    kit = Kit(tmp_path, port, environ, program=("-m", "kit"))
    yield kit
    kit("down")
    for container in containers(kit):
        docker("rm", "--force", container)
    of_project = ("--quiet", "--filter", f"label={PROJECT}={project}")
    for volume in docker("volume", "ls", *of_project).stdout.split():
        docker("volume", "rm", volume)  # which docker-compose 1.29 makes for all services
    assert not docker("network", "ls", *of_project).stdout


def containers(kit: Kit) -> list[str]:
    """Every container of the kit's project."""
    return labelled(PROJECT, project_name(kit.environ))


def status(kit: Kit) -> dict[str, object]:
    done = kit("status", "--json")
    assert done.stdout, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def identity(image: str) -> str:
    return docker("image", "inspect", "--format", "{{.Id}}", image).stdout.strip()


def running_image(kit: Kit) -> str:
    (container,) = containers(kit)
    return docker("inspect", "--format", "{{.Image}}", container).stdout.strip()
