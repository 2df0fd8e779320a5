"""The doctor in a container without a GPU, and its container that looks for one: both for real."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

import kit
from kit.doctor.checks.docker import toolkit
from kit.doctor.facts import Docker, Facts
from kit.doctor.finding import Status
from kit.doctor.gather import docker as adapter
from kit.doctor.gather import probe
from kit.doctor.request import Request
from kit.settings import Settings
from tests.container.containers import docker
from tests.unit.doctor.machines import WORKSTATION
from tests.unit.doctor.recorded import hold, steady_findings

CHECKOUT = Path(kit.__file__).parent.parent
VARY = ("machine.platform", "machine.cpu", "machine.wsl", "disk.weights", "kit.upstream")
"""What the host decides, and the age of the image."""


def doctor(image: str, *options: str, arguments: tuple[str, ...] = ()) -> tuple[int, str]:
    """The doctor of this checkout, on the image's Python and packages."""
    done = docker(
        "run", "--rm", "--network", "none", "--memory", "2g", "--shm-size", "64m",
        "--ulimit", "memlock=65536", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL",
        "--volume", f"{CHECKOUT}:/src:ro", "--env", "PYTHONPATH=/src", "--workdir", "/src",
        *options, "--entrypoint", "python", image, "-m", "kit", "doctor", *arguments, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def test_in_a_container_without_a_gpu(image):
    code, out = doctor(image, arguments=("--offline", "--json"))
    assert code == 0, out
    hold("container.txt", steady_findings(json.loads(out), VARY))


def test_the_network_is_asked_and_its_absence_is_no_failure(image):
    code, out = doctor(image, arguments=("--json",))
    assert code == 0, out
    found = {each["id"]: each for each in json.loads(out)["findings"]}
    assert found["network.weights"]["status"] == "warn"
    assert found["clock.skew"]["status"] == "skip"


def test_a_memory_limit_that_is_too_small(image):
    code, out = doctor(image, "--memory", "256m", arguments=("--offline",))
    assert code == 1, out
    assert "FAIL   memory.cgroup: not enough" in out
    assert "remedy    raise the container's memory limit" in out


def test_the_container_that_looks_for_gpus(image):
    """Run by the engine that is here; where that has no toolkit, its refusal is understood."""
    request = Request(Settings.from_environ())
    engine = adapter.look(request, Facts())
    assert isinstance(engine, Docker)
    if "nvidia" in engine.runtimes or engine.cdi_folders:
        pytest.skip("this engine may have an NVIDIA runtime")
    tried = probe.run({**os.environ, "KIT_IMAGE": image})
    assert tried.image is not None
    assert tried.exit_code != 0
    finding = toolkit.judge(replace(WORKSTATION, probe=tried))
    assert finding.status is Status.FAIL
    assert finding.summary == "containers get no GPU: the engine knows no NVIDIA runtime"
    assert "could not select device driver" in finding.evidence[0].observed
    names = docker("container", "ls", "--all", "--format", "{{.Names}}").stdout.split()
    assert not [name for name in names if name.startswith("kit-doctor-")]
