"""`kit up`, `status`, `down`, `upgrade` and `rollback` with real containers of a stand-in."""

import json
import os
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from kit.containers.compose import find_compose, project_name
from kit.containers.docker import kept_name
from tests.container.containers import docker, labelled
from tests.container.kit_up import containers, identity, running_image, status
from tests.container.stand_in import REWRITES, build_stand_in
from tests.e2e.kit_process import REPOSITORY, Kit, free_port, wait_until

pytestmark = pytest.mark.container


def names(project: str) -> list[str]:
    """Of the containers of a project."""
    only = f"label=com.docker.compose.project={project}"
    return docker("ps", "--all", "--filter", only, "--format", "{{.Names}}").stdout.split()


def test_up_status_logs_and_down(kit: Kit, stand_in_image: str, model_dir: Path) -> None:
    done = kit.up("--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["answer"] == "You said: 你好"
    assert report["where"].startswith("container spark-kit-test-")
    ram = report["memory"]["ram"]
    assert 0 < ram["peak_bytes"] < ram["plan_bytes"] < ram["budget_bytes"]

    found = status(kit)
    assert (found["state"], found["runtime"]) == ("ready", "container")
    assert (found["image"], found["digest"]) == (stand_in_image, identity(stand_in_image))
    assert found["rewrites"] == REWRITES
    assert found["memory"]["limit_bytes"] == ram["budget_bytes"]  # type: ignore[index]
    wait_until(lambda: status(kit)["health"] == "healthy", 60)
    assert "healthy (the engine's own check)" in kit("status").stdout
    assert kit("health").returncode == 0
    assert "/health/ready" in kit("logs").stdout
    assert len(kit("logs", "-n", "2").stdout.splitlines()) == 2

    again = json.loads(kit.up("--json").stdout)
    assert (again["started"], again["pid"]) == (False, report["pid"])

    (container,) = containers(kit)
    assert json.loads(kit("down", "--json").stdout) == {"stopped": True}
    assert not containers(kit)
    assert kit("status").returncode == 1
    assert "/health/ready" in kit("logs").stdout  # what was kept of it
    assert kit("down").stdout == "nothing was running\n"
    assert container


def test_dry_run_changes_nothing(kit: Kit, stand_in_image: str) -> None:
    done = kit.up("--dry-run", "--json", KIT_API_KEY="very-secret")
    assert done.returncode == 0, done.stderr
    (step,) = json.loads(done.stdout)["steps"]
    assert step["command"][-4:] == ["up", "--detach", "--no-build", "spark-cpu"]
    assert step["variables"]["KIT_IMAGE"] == stand_in_image
    assert step["variables"]["KIT_PORT"] == str(kit.port)
    assert "very-secret" not in done.stdout + done.stderr
    assert not containers(kit)
    assert not (kit.home / "state").exists()
    text = kit.up("--dry-run").stdout
    assert "  KIT_CONTEXT=256 \\\n" in text
    kit.up()
    assert "Nothing to do: it runs already" in kit.up("--dry-run").stdout
    assert json.loads(kit.up("--dry-run", "--json", "--context", "64").stdout)["reason"]


@pytest.mark.parametrize(
    ("behaviour", "code", "said"),
    [
        ("crash", 6, "the server ended with exit code 1"),
        ("load_error", 4, "error: the server ended: the weights are damaged"),
        ("over_budget", 5, "peak host RAM"),
        ("no_answer", 6, "the engine has died"),
    ],
)
def test_what_fails_is_explained_and_removed(
    kit: Kit, image: str, behaviour: str, code: int, said: str
) -> None:
    done = kit.up(KIT_IMAGE=build_stand_in(image, behaviour))
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "stopped the service" in done.stderr or not containers(kit)
    assert not containers(kit)
    assert kit("status").returncode == 1
    if behaviour == "crash":
        assert "log │ RuntimeError: boom" in done.stderr
        assert ": RuntimeError: boom\nhint:" in done.stderr
        assert "RuntimeError: boom" in kit("logs").stdout


def test_a_kill_at_the_memory_limit_is_reported_as_one(kit: Kit, image: str) -> None:
    done = kit.up("--max-ram", "96MiB", KIT_IMAGE=build_stand_in(image, "hog"))
    assert done.returncode == 5, done.stderr
    assert "it reached its container's memory limit of 96.0 MiB" in done.stderr
    assert "(exit code 137)" in done.stderr
    assert "--max-ram" in done.stderr
    assert not containers(kit)


def test_a_service_that_dies_later_is_seen_and_healed(kit: Kit) -> None:
    kit.up()
    (container,) = containers(kit)
    docker("kill", container)
    wait_until(lambda: kit("status").returncode == 6)
    assert "died: container spark-kit-test-" in kit("status").stdout
    done = kit.up()
    assert done.returncode == 0, done.stderr
    assert "the service had died" in done.stderr
    assert containers(kit) != [container]


def test_an_upgrade_that_fails_goes_back(kit: Kit, image: str, stand_in_image: str) -> None:
    kit.up()
    done = kit("upgrade", "--image", build_stand_in(image, "crash"))
    assert done.returncode == 6
    assert f"tiny in {stand_in_image} is back" in done.stderr
    assert running_image(kit) == identity(stand_in_image)
    assert status(kit)["state"] == "ready"


def test_an_upgrade_over_its_budget_goes_back(kit: Kit, model_dir: Path) -> None:
    kit.up()
    before = status(kit)
    heavy = model_dir.with_name("heavy")
    shutil.copytree(model_dir, heavy)
    (heavy / "heavy").touch()  # the stand-in takes a gigabyte then
    done = kit("upgrade", "--model", str(heavy))
    assert done.returncode == 5, done.stderr
    assert status(kit)["memory"]["limit_bytes"] == before["memory"]["limit_bytes"]  # type: ignore[index]
    assert containers(kit)


def test_a_plan_over_the_budget_takes_no_container_down(kit: Kit) -> None:
    kit.up()
    before = containers(kit)
    done = kit("upgrade", "--max-ram", "9MiB")
    assert done.returncode == 3, done.stderr
    assert "over the budget of 9.0 MiB" in done.stderr
    assert containers(kit) == before


def test_an_image_that_cannot_be_had_takes_nothing_down(kit: Kit) -> None:
    kit.up()
    before = containers(kit)
    done = kit("upgrade", "--image", "127.0.0.1:9/spark-kit:new")
    assert done.returncode == 3, done.stderr
    assert "docker compose pull failed" in done.stderr
    assert "the service that was running goes on" in done.stderr
    assert containers(kit) == before


@pytest.mark.parametrize(
    "change", [["ENTRYPOINT []", 'CMD ["bash"]'], ["FROM scratch", "COPY --from=0 /etc/hostname /"]]
)
def test_an_image_that_runs_no_server_takes_nothing_down(
    kit: Kit, stand_in_image: str, tmp_path: Path, change: list[str]
) -> None:
    kit.up()
    before = containers(kit)
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "Dockerfile").write_text("\n".join([f"FROM {stand_in_image}", *change]))
    docker("build", "--quiet", "--tag", "spark-kit-stand-in:none", str(folder))
    done = kit("upgrade", "--image", "spark-kit-stand-in:none")
    assert done.returncode == 3, done.stderr
    assert "image spark-kit-stand-in:none is not one of spark-kit" in done.stderr
    assert "the service that was running goes on" in done.stderr
    assert containers(kit) == before


def test_an_image_for_another_processor_takes_nothing_down(
    kit: Kit, stand_in_image: str, tmp_path: Path
) -> None:
    kit.up()
    before = containers(kit)
    (tmp_path / "Dockerfile").write_text(
        'FROM scratch\nCOPY Dockerfile /\nENTRYPOINT ["kit", "serve", "/model"]\n'
    )
    platform = ("--platform", "linux/s390x")
    docker("build", "--quiet", *platform, "--tag", "spark-kit-stand-in:s390x", str(tmp_path))
    done = kit("upgrade", "--image", "spark-kit-stand-in:s390x")
    assert done.returncode == 3, done.stderr
    assert "spark-kit-stand-in:s390x is for linux/s390x" in done.stderr
    assert containers(kit) == before


def test_upgrade_and_rollback_follow_the_image_not_its_name(kit: Kit, image: str) -> None:
    moving = build_stand_in(image, "ok", tag="moving")
    kit.up(KIT_IMAGE=moving)
    old = running_image(kit)
    environ = {k: v for k, v in kit.environ.items() if k != "KIT_IMAGE"}
    unnamed = replace(kit, environ=environ)
    build_stand_in(image, "ok", tag="moving", build=2)
    new = identity(moving)
    assert new != old

    done = unnamed("upgrade", "--json")
    assert done.returncode == 0, done.stderr
    assert "other settings (image)" in done.stderr
    assert running_image(kit) == new
    docker("image", "prune", "--force")  # the old one has no name but the kit's own
    assert identity(kept_name(old)) == old
    back = unnamed("rollback")
    assert back.returncode == 0, back.stderr
    assert running_image(kit) == old
    assert unnamed("rollback").returncode == 0
    assert running_image(kit) == new


def test_monitoring_joins_what_kit_up_started_and_outlives_it(kit: Kit, image: str) -> None:
    """With a stand-in for both: what matters is the network that they are in."""
    kit.up()
    project = project_name(kit.environ)
    file = str(REPOSITORY / "monitoring/compose.yaml")
    compose = (
        *find_compose(kit.environ).command,
        "--file",
        file,
        "--project-name",
        f"{project}-mon",
    )
    images = {"KIT_PROMETHEUS_IMAGE": image, "KIT_GRAFANA_IMAGE": image, "KIT_GRAFANA_PORT": "0"}
    environ = kit.environ | images | {"KIT_NETWORK": f"{project}_default"}
    try:
        subprocess.run(
            (*compose, "run", "--detach", "--entrypoint", "sleep", "prometheus", "600"),
            env=environ,
            check=True,
            capture_output=True,
        )
        (monitor,) = labelled("com.docker.compose.project", f"{project}-mon")
        ask = "import urllib.request as r; r.urlopen('http://server:8000/health/ready')"
        docker("exec", monitor, "python3", "-c", ask)
        assert kit("down").stdout == "stopped\n"
        assert kit.up().returncode == 0
        wait_until(
            lambda: not docker("exec", monitor, "python3", "-c", ask, check=False).returncode
        )
    finally:
        for container in labelled("com.docker.compose.project", f"{project}-mon"):
            docker("rm", "--force", container)
        subprocess.run(
            (*compose, "down", "--volumes"), env=environ, capture_output=True, check=True
        )
    assert kit("down").returncode == 0


def test_restart_takes_a_new_api_key(kit: Kit) -> None:
    kit.up(KIT_API_KEY="first-key")
    assert kit("restart").returncode == 2  # it would ask for no key any more
    done = kit("restart", KIT_API_KEY="second-key")
    assert done.returncode == 0, done.stderr
    url = f"http://127.0.0.1:{kit.port}/v1/chat/completions"
    body = {"messages": [{"role": "user", "content": "hi"}]}
    for key, code in (("first-key", 401), ("second-key", 200)):
        headers = {"Authorization": f"Bearer {key}"}
        assert httpx.post(url, json=body, headers=headers, trust_env=False).status_code == code
    written = "".join(path.read_text() for path in (kit.home / "state").rglob("*.*"))
    assert "-key" not in written


def test_a_key_in_a_file_is_not_shown_by_the_engine(kit: Kit, image: str, tmp_path: Path) -> None:
    file = tmp_path / "api key"
    file.write_text("very-secret\n")
    file.chmod(0o600)
    os.chown(file, 10001, 10001)
    done = kit.up("--model", "demo", "--no-exercise", KIT_IMAGE=image, KIT_API_KEY_FILE=str(file))
    assert done.returncode == 0, done.stderr
    assert f"$(cat '{file}')" in done.stdout
    (container,) = containers(kit)
    assert "very-secret" not in docker("inspect", container).stdout
    url = f"http://127.0.0.1:{kit.port}/v1/models"
    for key, code in (("wrong", 401), ("very-secret", 200)):
        headers = {"Authorization": f"Bearer {key}"}
        assert httpx.get(url, headers=headers, trust_env=False).status_code == code


def test_killed_in_the_middle_the_same_command_goes_on(kit: Kit, image: str) -> None:
    slow = build_stand_in(image, "slow")
    process = kit.start("up", KIT_IMAGE=slow)
    wait_until(lambda: bool(containers(kit)), 60)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = kit.up("--json", KIT_IMAGE=slow)
    assert done.returncode == 0, done.stderr
    assert len(containers(kit)) == 1
    assert json.loads(done.stdout)["answer"] == "You said: 你好"


def test_a_killed_upgrade_goes_on_or_back(kit: Kit, image: str, stand_in_image: str) -> None:
    kit.up()
    stuck = build_stand_in(image, "never_ready")
    process = kit.start("upgrade", "--image", stuck)
    wait_until(lambda: status(kit)["state"] == "loading", 60)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = kit("upgrade", "--image", stuck, "--timeout", "3")
    assert done.returncode == 6
    assert f"tiny in {stand_in_image} is back" in done.stderr
    assert running_image(kit) == identity(stand_in_image)


def test_weights_that_only_root_reads_are_refused_before_the_start(
    kit: Kit, model_dir: Path
) -> None:
    (model_dir / "model.safetensors").chmod(0o600)
    done = kit.up()
    assert done.returncode == 3
    assert "only root can read" in done.stderr
    assert f"chmod -R a+rX {model_dir}" in done.stderr


def test_weights_that_are_links_are_refused_before_the_start(kit: Kit, model_dir: Path) -> None:
    weights = model_dir / "model.safetensors"
    weights.rename(model_dir.parent / "blob")
    weights.symlink_to("../blob")
    done = kit.up()
    assert done.returncode == 3
    assert "which a container does not see" in done.stderr
    assert not containers(kit)


def test_weights_of_one_user_are_read_as_that_user(kit: Kit, model_dir: Path) -> None:
    for path in (model_dir, *model_dir.iterdir()):
        os.chown(path, 12345, 12345)
    (model_dir / "model.safetensors").chmod(0o600)
    done = kit.up()
    assert done.returncode == 0, done.stderr
    (container,) = containers(kit)
    assert docker("exec", container, "id", "-u").stdout.strip() == "12345"
    assert docker("exec", container, "cat", "/model/model.safetensors").returncode == 0


def test_a_container_that_nobody_remembers_is_named(kit: Kit) -> None:
    kit.up()
    kit.state_file.unlink()
    done = kit.up()
    assert done.returncode == 3
    assert "is not free" in done.stderr
    done = kit.up("--port", str(kit.port + 1))
    assert done.returncode == 3
    (container,) = containers(kit)
    name = docker("inspect", "--format", "{{.Name}}", container).stdout.strip("/\n")
    assert f"container {name} serves for the kit" in done.stderr
    assert f"docker rm --force {name}" in done.stderr
    assert f"docker rm --force {name}" in kit("status").stdout
    ended = kit("down")
    assert (ended.returncode, "not stopped: container" in ended.stdout) == (1, True)
    docker("rm", "--force", name)
    docker("network", "rm", f"{project_name(kit.environ)}_default")


def test_instances_run_side_by_side(kit: Kit) -> None:
    port = free_port()
    assert kit.up().returncode == 0
    done = kit.up("--instance", "b", "--port", str(port))
    assert done.returncode == 0, done.stderr
    project = project_name(kit.environ)
    (name,) = names(f"{project}-b")
    assert name.startswith(f"{project}-b")
    assert names(project)
    assert "is gone" not in kit("status", "--instance", "b").stdout
    assert f":{port}" in kit("status", "--instance", "b").stdout
    assert kit("down", "--instance", "b").stdout == "stopped\n"
    assert not names(f"{project}-b")
    assert status(kit)["state"] == "ready"


def test_users_who_share_an_engine_leave_each_other_alone(kit: Kit, tmp_path: Path) -> None:
    kit.up()
    before = containers(kit)
    port = free_port()
    changes = {"XDG_STATE_HOME": str(tmp_path / "other"), "KIT_PORT": str(port)}
    other = replace(kit, port=port, environ=kit.environ | changes)
    assert other("down").stdout == "nothing was running\n"
    assert "docker rm" not in other("status").stdout
    done = other.up()
    assert done.returncode == 3, done.stderr
    assert f"of the kit with the state folder {tmp_path}/state/spark-kit" in done.stderr
    assert "docker rm" not in done.stderr
    assert other("down").returncode == 0
    assert containers(kit) == before
    assert status(kit)["state"] == "ready"


def test_what_was_stopped_by_hand_is_said_to_be(kit: Kit) -> None:
    kit.up()
    (container,) = containers(kit)
    docker("stop", container)
    told = kit("status").stdout
    assert " has ended; " in told
    assert "stopped" in told
    assert "did not say why" not in told


def test_what_crashes_is_started_again(kit: Kit) -> None:
    kit.up()
    (container,) = containers(kit)
    pid = docker("inspect", "--format", "{{.State.Pid}}", container).stdout.strip()
    os.kill(int(pid), signal.SIGKILL)
    wait_until(
        lambda: docker("inspect", "--format", "{{.RestartCount}}", container).stdout > "0", 60
    )
    wait_until(lambda: status(kit)["state"] == "ready", 60)


def test_the_demo_in_the_kits_own_image(kit: Kit, image: str) -> None:
    done = kit.up("--json", "--model", "demo", KIT_IMAGE=image)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["answer"].startswith("spark-kit is a deployment kit")
    assert report["within_budget"] is True
    found = status(kit)
    assert found["kit_version"] and found["rewrites"]
    log = subprocess.run(("docker", "logs", *containers(kit)), capture_output=True, text=True)
    assert "error" not in (log.stdout + log.stderr).lower()
