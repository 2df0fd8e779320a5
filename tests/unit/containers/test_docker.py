"""What `docker inspect` and the engine's events say, as facts; questions that nobody answers."""

import pytest

from kit.containers.docker import Death, Engine, container_of, deaths_of
from kit.errors import EnvironmentNotReady

INSPECTED = {
    "Id": "d13aacff6865",
    "Name": "/spark-kit-spark-cpu-1",
    "Image": "sha256:6e9c",
    "RestartCount": 2,
    "State": {
        "Running": True,
        "Restarting": False,
        "OOMKilled": False,
        "Pid": 4711,
        "ExitCode": 0,
        "Error": "",
        "StartedAt": "1970-01-01T00:01:40.123456789Z",
        "Health": {"Status": "starting"},
    },
    "HostConfig": {"Memory": 536870912},
    "Config": {
        "Labels": {
            "com.docker.compose.project": "spark-kit",
            "com.docker.compose.service": "spark-cpu",
            "spark-kit.state-dir": "0123:/home/a/state",
        }
    },
}


def changed(**state):
    return INSPECTED | {"State": INSPECTED["State"] | state}


def test_a_running_container():
    found = container_of(INSPECTED)
    assert (found.name, found.project, found.service) == (
        "spark-kit-spark-cpu-1", "spark-kit", "spark-cpu",
    )  # fmt: skip
    assert (found.running, found.pid, found.restarts) == (True, 4711, 2)
    assert (found.health, found.memory_limit_bytes) == ("starting", 512 << 20)
    assert found.owner == "0123:/home/a/state"
    assert found.started_at == pytest.approx(100.123456)


def test_one_that_the_engine_is_about_to_start_again_does_not_run():
    assert not container_of(changed(Restarting=True)).running


def test_one_without_limit_and_health_check():
    found = container_of(changed(Health=None) | {"HostConfig": {"Memory": 0}})
    assert (found.health, found.memory_limit_bytes) == ("none", None)


def die(code):
    return {"Action": "die", "Actor": {"Attributes": {"exitCode": str(code)}}}


OOM = {"Action": "oom", "Actor": {"Attributes": {}}}


def test_ends_are_told_apart():
    assert deaths_of([die(1), OOM, die(137), die(137)]) == (
        Death(1, False),
        Death(137, True),
        Death(137, False),
    )
    assert deaths_of([]) == ()


def test_no_engine_is_explained(tmp_path):
    engine = Engine({"DOCKER_HOST": f"unix://{tmp_path}/no.sock"})
    for question in (engine.version, lambda: engine.image("x"), lambda: engine.containers("x")):
        with pytest.raises(
            EnvironmentNotReady, match="the Docker engine does not answer"
        ) as caught:
            question()
        assert "systemctl start docker" in caught.value.hint
