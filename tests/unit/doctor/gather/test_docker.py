"""``docker info`` as engines tell it, cut to what is read; and the container that is started."""

import os
import stat
from pathlib import Path

import pytest

from kit.doctor.facts import Docker, Facts, NoDocker
from kit.doctor.gather import docker, probe
from kit.doctor.gather.docker import describe
from kit.doctor.request import Request
from kit.settings import Settings

DEBIAN = {
    "CgroupDriver": "cgroupfs",
    "CgroupVersion": "1",
    "IndexServerAddress": "https://index.example/v1/",
    "RegistryConfig": {"Mirrors": []},
    "DockerRootDir": "/var/lib/docker",
    "ServerVersion": "20.10.24+dfsg1",
    "Runtimes": {"runc": {"path": "runc"}, "io.containerd.runc.v2": {"path": "runc"}},
    "SecurityOptions": ["name=seccomp,profile=default"],
    "CDISpecDirs": None,
}


def test_an_ordinary_engine():
    assert describe(DEBIAN, {}, "/usr/bin/docker") == Docker(
        version="20.10.24+dfsg1",
        cgroup_driver="cgroupfs",
        root=Path("/var/lib/docker"),
        runtimes=("io.containerd.runc.v2", "runc"),
        registries=("https://index.example/v1/",),
    )


@pytest.mark.parametrize(
    ("changes", "environ", "expected"),
    [
        ({"SecurityOptions": ["name=rootless", "name=cgroupns"]}, {}, {"rootless": True}),
        ({"DockerRootDir": "/var/snap/docker/common/var-lib-docker"}, {}, {"snap": True}),
        ({}, {"DOCKER_HOST": "tcp://10.0.0.7:2376"}, {"remote": True}),
        ({}, {"DOCKER_HOST": "ssh://gpu.example"}, {"remote": True}),
        ({}, {"DOCKER_HOST": "unix:///run/user/1000/docker.sock"}, {"remote": False}),
        (
            {"DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]},
            {},
            {"containerd": True},
        ),
        ({"DriverStatus": [["Backing Filesystem", "extfs"]]}, {}, {"containerd": False}),
        ({"CDISpecDirs": ["/etc/cdi"]}, {}, {"cdi_folders": (Path("/etc/cdi"),)}),
        (
            {"RegistryConfig": {"Mirrors": ["https://mirror.example/"]}},
            {},
            {"registries": ("https://mirror.example/", "https://index.example/v1/")},
        ),
        ({"SecurityOptions": None, "Runtimes": None, "RegistryConfig": None}, {}, {"runtimes": ()}),
    ],
)
def test_other_engines(changes, environ, expected):
    found = describe({**DEBIAN, **changes}, environ, "/usr/bin/docker")
    assert {name: getattr(found, name) for name in expected} == expected


def ask(environ):
    return Request(Settings(Path("data"), Path("state")), environ=environ)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("unix:///no/such/socket", "the Docker engine does not answer"),
        ("tcp://127.0.0.1:1", "the Docker engine does not answer"),
    ],
)
def test_an_engine_that_does_not_answer(host, words):
    found = docker.look(ask({**os.environ, "DOCKER_HOST": host}), Facts())
    assert isinstance(found, NoDocker)
    assert words in found.reason
    assert "systemctl start docker" in found.remedy


def test_no_sign_of_an_engine(monkeypatch):
    monkeypatch.setattr(docker, "docker_engine_found", lambda environ: False)
    assert docker.look(ask({}), Facts()) == NoDocker("there is no Docker engine", None)


@pytest.fixture
def program(tmp_path):
    """Put a program on a PATH of its own; returns the environment."""

    def make(name: str, script: str) -> dict[str, str]:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"}

    return make


@pytest.mark.parametrize(
    ("images", "chosen"),
    [
        (
            ("alpine:3", "debian:12", "nvidia/cuda:12.8.1-base-ubuntu24.04"),
            "nvidia/cuda:12.8.1-base-ubuntu24.04",
        ),
        (("debian:12", "spark-kit:1"), "spark-kit:1"),
        (("spark-kit:<none>", "spark-kit-more:1", "python:3-alpine", "debian:12"), "debian:12"),
        (("alpine:3",), None),
        ((), None),
    ],
)
def test_image_for_the_probe(images, chosen):
    assert probe.choose(images) == chosen


def test_the_image_that_will_be_run_comes_first():
    images = ("spark-kit:1", "registry.example/own:1")
    assert probe.choose(images, "registry.example/own:1") == "registry.example/own:1"
    assert probe.choose(images, "registry.example/other:1") == "spark-kit:1"


ANSWERS = """case "$*" in
  "image ls"*) echo debian:12 ;;
  run*) echo "$*" > {log}; printf 'GPU-aaaa\\nMIG-bbbb\\nnonsense\\n' ;;
esac"""


def test_the_probe_asks_for_all_gpus_and_leaves_nothing(program, tmp_path):
    log = tmp_path / "log"
    found = probe.run(program("docker", ANSWERS.format(log=log)))
    assert (found.image, found.exit_code, found.gpus) == ("debian:12", 0, ("GPU-aaaa", "MIG-bbbb"))
    words = log.read_text().split()
    assert words[:3] == ["run", "--name", f"kit-doctor-{os.getpid()}"]
    for option in ("--rm", "--pull never", "--network none", "--gpus all"):
        assert option in log.read_text()
    assert found.command.startswith("docker run --rm --pull never")


def test_a_probe_that_does_not_end_is_removed(program, tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "SECONDS", 1.0)
    script = f"""case "$*" in
      "image ls"*) echo debian:12 ;;
      run*) exec sleep 60 ;;
      rm*) echo "$*" > {tmp_path}/log ;;
    esac"""
    with pytest.raises(TimeoutError):
        probe.run(program("docker", script))
    assert (tmp_path / "log").read_text() == f"rm --force kit-doctor-{os.getpid()}\n"


def test_without_an_image_nothing_is_started(program):
    found = probe.run(program("docker", "exit 0"))
    assert (found.image, found.gpus) == (None, ())
    assert " IMAGE " in found.command
