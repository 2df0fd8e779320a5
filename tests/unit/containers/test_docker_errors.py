"""Complaints as Docker, Compose and registries word them."""

import pytest

from kit.containers.docker_errors import explain
from kit.errors import EnvironmentNotReady, ServiceError

LACKING = [
    (
        "Got permission denied while trying to connect to the Docker daemon socket at "
        "unix:///var/run/docker.sock: Get http://…/version: dial unix /var/run/docker.sock: "
        "connect: permission denied",
        "usermod -aG docker",
    ),
    (
        "docker.errors.DockerException: Error while fetching server API version: "
        "('Connection aborted.', PermissionError(13, 'Permission denied'))",
        "usermod -aG docker",
    ),
    (
        "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. "
        "Is the docker daemon running?",
        "systemctl start docker",
    ),
    (
        "Error while fetching server API version: ('Connection aborted.', "
        "FileNotFoundError(2, 'No such file or directory'))",
        "systemctl start docker",
    ),
    ("docker: 'compose' is not a docker command.", "docker-compose-plugin"),
    (
        "nvidia-container-runtime-hook: invoking the NVIDIA Container Runtime Hook directly (e.g. "
        "specifying the docker --gpus flag) is not supported.",
        "nvidia-container-runtime.mode=legacy",
    ),
    (
        'Error response from daemon: could not select device driver "nvidia" with capabilities: '
        "[[compute gpu utility]]",
        "NVIDIA Container Toolkit",
    ),
    (
        "nvidia-container-cli: initialization error: nvml error: driver/library version mismatch",
        "restart the machine",
    ),
    (
        "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.8, please update "
        "your driver to a newer version",
        "525 or newer",
    ),
    (
        "nvidia-container-cli: device error: GPU-1234: unknown device",
        "nvidia-smi",
    ),
    (
        "driver failed programming external connectivity on endpoint spark-kit-spark-1: Bind for "
        "127.0.0.1:8000 failed: port is already allocated",
        "--port",
    ),
    (
        'invalid mount config for type "bind": bind source path does not exist: /models/x',
        "Docker Desktop",
    ),
    ("write /var/lib/docker/tmp/x: no space left on device", "docker image prune"),
    (
        "pull access denied for spark-kit, repository does not exist or may require 'docker login'"
        ": denied: requested access to the resource is denied",
        "docker login",
    ),
    ("manifest for registry.example/spark-kit:9 not found: manifest unknown", "KIT_IMAGE"),
    ("x509: certificate signed by unknown authority", "/etc/docker/certs.d"),
    (
        "Get https://registry.example/v2/: dial tcp: lookup registry.example: no such host",
        "network",
    ),
    ("Get http://127.0.0.1:9/v2/: dial tcp 127.0.0.1:9: connect: connection refused", "network"),
    (
        "could not find an available, non-overlapping IPv4 address pool among the defaults",
        "network prune",
    ),
    ("iptables failed: iptables --wait -t nat -A DOCKER: No chain", "systemctl restart docker"),
    (
        'OCI runtime create failed: exec: "kit": executable file not found in $PATH: unknown',
        "make image",
    ),
]


@pytest.mark.parametrize(("said", "remedy"), LACKING)
def test_what_the_machine_lacks_has_a_remedy(said: str, remedy: str) -> None:
    error = explain("docker compose up", ["Creating network", said, ""])
    assert type(error) is EnvironmentNotReady
    assert remedy in error.hint
    assert error.message.startswith("docker compose up failed: ")
    assert said.splitlines()[-1] in error.message


def test_anything_else_is_passed_on() -> None:
    error = explain("docker compose up", ["something new went wrong"])
    assert type(error) is ServiceError
    assert error.message == "docker compose up failed: something new went wrong"
    assert explain("it", []).message == "it failed: it did not say why"
