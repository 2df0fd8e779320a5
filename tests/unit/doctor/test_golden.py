"""Whole reports as golden files: machines that the stub of NVIDIA's driver plays, and this one.

What the driver says comes through the real bindings; the rest of those machines is literal.
"""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import pytest

from kit.cli.doctor_report import as_record, print_text
from kit.doctor.check import run
from kit.doctor.examine import Report
from kit.doctor.facts import Facts, NoDocker, ProbeRun, Reply
from kit.doctor.registry import CHECKS
from kit.memory.probes import nvml
from kit.memory.probes.nvml import Nvidia, visible
from kit.memory.unavailable import Unavailable
from tests import nvml_driver
from tests.unit.doctor.machines import CPU_BUILD, LAPTOP, STALE, WORKSTATION, on, serving
from tests.unit.doctor.recorded import hold, steady_findings

CARD = "0000:01:00.0"
WITH_CARD = replace(WORKSTATION, machine=replace(WORKSTATION.machine, nvidia_cards=(CARD,)))
UPDATED = replace(WITH_CARD, machine=replace(WITH_CARD.machine, nvidia_module="570.124.06"))
SCENARIOS = {
    "two-gpus": (None, WORKSTATION),
    "no-driver": ("no-driver", WITH_CARD),
    "mismatch": ("mismatch", UPDATED),
    "no-gpu": ("no-gpu", WORKSTATION),
    "lost": ("lost", WITH_CARD),
    "mig": ("mig", WORKSTATION),
    "mig-empty": ("mig-empty", WORKSTATION),
    "tenants": ("tenants", WORKSTATION),
    "hidden": ("hidden", WORKSTATION),
    "silent": ("silent", WORKSTATION),
    "volta": ("volta", WORKSTATION),
    "old": ("old", WORKSTATION),
}


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    return nvml_driver.build(tmp_path_factory.mktemp("driver"))


def played(driver, scenario: str | None) -> Nvidia | Unavailable:
    code = (
        "import pickle; from kit.memory.probes import nvml; print(pickle.dumps(nvml.probe()).hex())"
    )
    return pickle.loads(bytes.fromhex(nvml_driver.run(driver, code, scenario)))  # noqa: S301


def hold_report(name: str, facts: Facts, capsys) -> None:
    report = Report(run(CHECKS, facts))
    print_text(report)
    text = capsys.readouterr().out
    assert all(len(line) <= 80 or " " not in line.strip() for line in text.splitlines())
    hold(f"{name}.txt", text)
    hold(f"{name}.json", json.dumps(as_record(report), indent=2) + "\n")


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_the_driver_may_say(driver, capsys, name):
    scenario, machine = SCENARIOS[name]
    nvidia = played(driver, scenario)
    usable = visible(nvidia.gpus, {}) if isinstance(nvidia, Nvidia) else ()
    hold_report(name, on(machine, nvidia, usable[0] if usable else None), capsys)


DOWN = Reply("https://gitee.example/x", "source gitee", "[Errno -2] Name or service not known")
OTHERS = {
    "laptop": LAPTOP,
    "workstation": WORKSTATION,
    "no-toolkit": replace(
        WORKSTATION,
        toolkit=replace(WORKSTATION.toolkit, version=None, hook=False, device_links=False),
        probe=ProbeRun(
            "debian:12",
            "docker run --rm --gpus all debian:12 nvidia-smi",
            125,
            (),
            'docker: Error response from daemon: could not select device driver "" with '
            "capabilities: [[gpu]]\nRun 'docker run --help' for more information",
        ),
    ),
    "stale-cdi": replace(WORKSTATION, toolkit=replace(WORKSTATION.toolkit, specs=(STALE,))),
    "fallback": replace(
        WORKSTATION,
        torch=CPU_BUILD,
        service=replace(WORKSTATION.service, state="ready", detail="ready", device="cpu"),
    ),
    "hidden-gpu": replace(WORKSTATION, environ={"CUDA_VISIBLE_DEVICES": ""}, serving=serving(None)),
    "no-network": replace(LAPTOP, weights_sources=(DOWN,), index=DOWN, registry=DOWN),
    "docker-stopped": replace(
        LAPTOP,
        docker=NoDocker(
            "asking the Docker engine failed: the Docker engine does not answer",
            "start it: sudo systemctl start docker",
        ),
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_machines(capsys, name):
    hold_report(name, OTHERS[name], capsys)


VARY = (
    "machine.platform",
    "machine.cpu",
    "machine.wsl",
    "python.version",
    "python.environment",
    "memory.cgroup",
    "memory.address-space",
    "memory.locked",
    "memory.shm",
    "disk.weights",
)
"""What an ordinary machine without a GPU may have one way or the other."""


def test_a_machine_like_this_one_without_a_gpu(tmp_path):
    """The command itself, on this machine, with no engine, an empty home and no network."""
    found = nvml.probe()
    if isinstance(found, Nvidia) or found.cause not in ("library", "bindings"):
        pytest.skip("this machine has an NVIDIA driver")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("KIT_", "XDG_"))}
    environ = {**kept, "HOME": str(tmp_path), "DOCKER_HOST": "unix:///no/such/socket"}
    command = [sys.executable, "-m", "kit", "doctor", "--offline", "--json"]
    done = subprocess.run(
        [*command, "--skip", "service.port"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    record = json.loads(done.stdout)
    assert done.returncode == 0, record
    hold("here.txt", steady_findings(record, VARY))
    assert list(tmp_path.iterdir()) == []
