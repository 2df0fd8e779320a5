"""`kit up` and what the engine has or lacks: other containers of the project, GPUs, Compose."""

from dataclasses import replace
from pathlib import Path

import pytest

from kit.containers.compose import project_name
from kit.containers.docker import PROJECT_LABEL, SERVICE_LABEL, Engine
from kit.memory.unavailable import Unavailable
from tests import nvml_driver
from tests.container.containers import docker
from tests.container.kit_up import containers, status
from tests.container.stand_in import build_stand_in
from tests.e2e.kit_process import Kit

pytestmark = pytest.mark.container


def test_other_services_of_the_project_go_on(kit: Kit, stand_in_image: str) -> None:
    kit.up()
    labels = [f"{PROJECT_LABEL}={project_name(kit.environ)}", f"{SERVICE_LABEL}=prometheus"]
    marked = [part for label in labels for part in ("--label", label)]
    neighbour = docker(
        "run", "--detach", "--entrypoint", "sleep", *marked, stand_in_image, "600"
    ).stdout
    try:
        assert kit("restart").returncode == 0
        assert kit("down").returncode == 0
        assert [name[:12] for name in containers(kit)] == [neighbour[:12]]
        assert docker("inspect", "--format", "{{.State.Running}}", neighbour.strip()).stdout == (
            "true\n"
        )
    finally:
        docker("rm", "--force", neighbour.strip())
        docker("network", "rm", f"{project_name(kit.environ)}_default")


@pytest.fixture
def gpu_kit(kit: Kit, tmp_path: Path) -> Kit:
    """On a machine with a GPU, by a stub of its driver, which the engine knows nothing of."""
    if "nvidia" in Engine().info().get("Runtimes", {}):
        pytest.skip("this engine hands out GPUs")
    driver = tmp_path / "driver"
    driver.mkdir()
    environ = kit.environ | {"LD_LIBRARY_PATH": str(nvml_driver.build(driver))}
    hidden = ("KIT_DEVICE", "KIT_RUNTIME", "CUDA_VISIBLE_DEVICES")
    return replace(kit, environ={k: v for k, v in environ.items() if k not in hidden})


def test_a_missing_toolkit_is_named_before_the_start_and_after_it(gpu_kit: Kit) -> None:
    done = gpu_kit.up()
    assert done.returncode == 3, done.stderr
    assert "containers get no GPU" in done.stderr
    assert "starting\n" not in done.stderr
    forced = gpu_kit.up("--no-preflight")
    assert forced.returncode == 3, forced.stderr
    assert "could not select device driver" in forced.stderr
    assert "nvidia-ctk runtime configure" in forced.stderr
    assert "--runtime local" in forced.stderr
    assert not containers(gpu_kit)
    assert not gpu_kit.state_file.exists()


def test_a_container_that_is_gone_has_no_log_and_no_memory(image: str) -> None:
    gone = docker("create", image).stdout.strip()
    docker("rm", gone)
    assert list(Engine().logs(gone, 10)) == []
    assert list(Engine().logs(gone, 10, follow=True)) == []
    assert all(isinstance(each, Unavailable) for each in Engine().memory_usage(gone))


def test_status_answers_at_every_moment_of_a_change(kit: Kit, image: str) -> None:
    kit.up()
    change = kit.start("upgrade", "--image", build_stand_in(image, "crash"))
    seen = set()
    while change.poll() is None:
        seen.add(status(kit)["state"])
    change.communicate()
    assert seen > {"ready"}
    assert status(kit)["state"] == "ready"
