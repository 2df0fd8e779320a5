"""compose.yaml without the kit: the service that it describes runs, as hardened as it says."""

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from kit.containers.image import checkout
from tests.container.conftest import missing
from tests.container.containers import Container, labelled

pytestmark = pytest.mark.container

PROJECT = f"spark-kit-test-compose-{uuid.uuid4().hex[:8]}"


def composes() -> list[tuple[str, ...]]:
    """The Compose command lines that are installed."""
    found: list[tuple[str, ...]] = []
    if shutil.which("docker-compose"):
        found.append(("docker-compose",))
    plugin = ("docker", "compose")
    if (
        shutil.which("docker")
        and not subprocess.run((*plugin, "version"), capture_output=True, check=False).returncode
    ):
        found.append(plugin)
    return found


Compose = tuple[str, ...]


@pytest.fixture(scope="module", params=["docker-compose", "docker compose"])
def compose(request: pytest.FixtureRequest, engine: None) -> Compose:
    command: Compose = tuple(request.param.split())
    if command not in composes():
        pytest.skip(f"{request.param} is not installed") if composes() else missing("no Compose")
    return (*command, "--file", str(checkout() / "compose.yaml"), "--project-name", PROJECT)


def run(compose: Compose, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("KIT_")}
    return subprocess.run(
        (*compose, "--profile", "cpu", *arguments),
        env={**kept, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def service(compose: Compose, image: str, demo: Path) -> Iterator[Container]:
    environ = {
        "KIT_IMAGE": image,
        "KIT_MODEL_DIR": str(demo),
        "KIT_MODEL_NAME": "demo",
        "KIT_MEMORY_LIMIT": "2g",
        "KIT_PORT": "0",
    }
    try:
        done = run(compose, "up", "--detach", "spark-cpu", **environ)
        assert done.returncode == 0, done.stderr
        (name,) = labelled("com.docker.compose.project", PROJECT)
        container = Container(name)
        container.wait_healthy()
        yield container
        container.require_quiet_log()
    finally:
        run(compose, "down", "--volumes", **environ)
        assert not labelled("com.docker.compose.project", PROJECT)


def test_it_is_hardened(service: Container) -> None:
    host = service.inspect()["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Init"]
    assert host["Memory"] == host["MemorySwap"] == 2 << 30
    assert service.inspect()["Config"]["User"] == "10001:10001"


def test_the_weights_are_mounted_read_only(service: Container, demo: Path) -> None:
    binds = [each for each in service.inspect()["Mounts"] if each["Type"] == "bind"]
    assert not any(each["RW"] for each in binds)
    (mount,) = [each for each in binds if each["Destination"] == "/model"]
    assert (mount["Source"], mount["Destination"], mount["RW"]) == (str(demo), "/model", False)


def test_a_service_on_the_cpu_promises_no_vram(service: Container) -> None:
    assert "KIT_MAX_VRAM=" in service.inspect()["Config"]["Env"]
    service.wait_ready()
    metrics = httpx.get(f"{service.url}/metrics", trust_env=False).text
    assert 'kit_memory_budget_bytes{pool="device"}' not in metrics


def test_its_port_is_published_on_the_loopback_only(service: Container) -> None:
    (bindings,) = service.inspect()["NetworkSettings"]["Ports"].values()
    assert [each["HostIp"] for each in bindings] == ["127.0.0.1"]
    service.wait_ready()


def test_damaged_weights_are_not_loaded_again_and_again(
    compose: Compose, image: str, demo: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "demo"
    shutil.copytree(demo, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    other = (*compose[:-1], f"{PROJECT}-damaged")
    environ = {"KIT_IMAGE": image, "KIT_MODEL_DIR": str(folder), "KIT_PORT": "0"}
    try:
        assert not run(other, "up", "--detach", "spark-cpu", **environ).returncode
        (name,) = labelled("com.docker.compose.project", f"{PROJECT}-damaged")
        container = Container(name)
        container.wait_for(lambda: "error: " in container.logs, "refused")
        told = httpx.get(f"{container.url}/health/ready", trust_env=False)
        assert (told.status_code, told.json()["exit_code"]) == (503, 4)
        assert container.inspect()["RestartCount"] == 0
        assert container.inspect()["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
    finally:
        run(other, "down", "--volumes", **environ)


def test_down_as_it_is_documented_ends_all(compose: Compose, image: str, demo: Path) -> None:
    other = (*compose[:-1], f"{PROJECT}-down")
    environ = {"KIT_IMAGE": image, "KIT_MODEL_DIR": str(demo), "KIT_PORT": "0"}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("KIT_")}
    for arguments in (("up", "--detach", "spark-cpu"), ("down",)):
        subprocess.run(
            (*other, *arguments),
            env={**kept, **environ, "COMPOSE_PROFILES": "cpu"},
            capture_output=True,
            check=True,
        )
    assert not labelled("com.docker.compose.project", f"{PROJECT}-down")


def test_without_a_model_it_says_what_to_set(compose: Compose, image: str) -> None:
    done = run(compose, "up", "--detach", "spark-cpu", KIT_IMAGE=image)
    assert done.returncode
    assert "KIT_MODEL_DIR" in done.stderr
