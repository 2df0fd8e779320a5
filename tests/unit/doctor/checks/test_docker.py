from dataclasses import replace
from pathlib import Path

import pytest

from kit.doctor.checks import docker
from kit.doctor.facts import NoDocker, ProbeRun
from kit.doctor.finding import Status
from kit.memory.unavailable import Unavailable
from tests.unit.doctor.machines import GPU, LAPTOP, STALE, WORKSTATION, serving

ENGINE = WORKSTATION.docker
TOOLKIT = WORKSTATION.toolkit


@pytest.mark.parametrize(
    ("remedy", "alone", "words"),
    [(None, "skip", "install Docker Engine"), ("start it", "warn", "start it")],
)
def test_no_engine(remedy, alone, words):
    facts = replace(LAPTOP, docker=NoDocker("why", remedy))
    assert docker.engine.judge(facts).status == alone
    wanted = replace(facts, serving=serving(GPU, runtime="container"))
    finding = docker.engine.judge(wanted)
    assert (finding.status, finding.evidence[0].observed) == ("fail", "why")
    assert words in finding.remedy


def test_an_engine_that_could_not_be_asked():
    facts = replace(LAPTOP, docker=Unavailable("no answer in time"))
    assert docker.engine.judge(facts).status is Status.WARN


def test_engine():
    assert docker.engine.judge(WORKSTATION).summary == "Docker 28.2.2, images in /var/lib/docker"


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({}, "pass", "own packages"),
        ({"remote": True}, "warn", "another machine"),
        ({"snap": True}, "warn", "snap"),
        ({"rootless": True}, "warn", "rootless"),
    ],
)
def test_kind(changes, status, words):
    facts = replace(WORKSTATION, docker=replace(ENGINE, **changes))
    finding = docker.kind.judge(facts)
    assert finding.status == status
    assert words in finding.summary


def test_rootless_with_a_configured_toolkit():
    facts = replace(WORKSTATION, docker=replace(ENGINE, rootless=True))
    for toolkit in (
        replace(TOOLKIT, no_cgroups=True),
        replace(TOOLKIT, specs=(STALE,)),
        replace(TOOLKIT, version=None),
    ):
        assert docker.kind.judge(replace(facts, toolkit=toolkit)).status is Status.PASS


def test_compose():
    assert docker.compose.judge(WORKSTATION).summary == "docker compose 2.36.2"


def test_no_compose():
    facts = replace(WORKSTATION, compose=Unavailable("neither is installed"))
    assert docker.compose.judge(facts).status is Status.WARN
    wanted = replace(facts, serving=serving(GPU, runtime="container"))
    assert docker.compose.judge(wanted).status is Status.FAIL


def tried(exit_code: int = 0, gpus: tuple[str, ...] = (), error: str = "", image: str | None = "i"):
    return replace(WORKSTATION, probe=ProbeRun(image, "docker run i", exit_code, gpus, error))


@pytest.mark.parametrize(
    ("error", "what", "remedy"),
    [
        (
            'docker: Error response from daemon: could not select device driver "" '
            "with capabilities: [[gpu]]",
            "knows no NVIDIA runtime",
            "nvidia-ctk runtime configure",
        ),
        (
            "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=all",
            "missing or stale",
            "nvidia-ctk cdi generate",
        ),
        (
            "nvidia-container-cli: initialization error: nvml error: "
            "driver/library version mismatch: unknown",
            "differ in version",
            "reboot",
        ),
        (
            "nvidia-container-cli: initialization error: load library failed: "
            "libnvidia-ml.so.1: cannot open shared object file",
            "does not find the driver's libraries",
            "ldconfig",
        ),
        (
            "nvidia-container-cli: mount error: failed to add device rules: "
            "unable to find any existing device filters: bpf_prog_query(BPF_CGROUP_DEVICE) failed",
            "may not set device rules",
            "upgrade",
        ),
        (
            'exec: "nvidia-smi": executable file not found in $PATH: unknown',
            "did not bring nvidia-smi in",
            "update it",
        ),
        ("something new", "see the error", "nvidia-ctk"),
        ("", "see the error", "nvidia-ctk"),
    ],
)
def test_errors_of_the_toolkit_are_explained(error, what, remedy):
    finding = docker.toolkit.judge(tried(125, error=error))
    assert finding.status is Status.FAIL
    assert what in finding.summary
    assert remedy in finding.remedy
    assert finding.evidence[0].observed == (error or "nothing")
    assert finding.evidence[0].source == "docker run i"


def test_a_container_that_sees_gpus():
    finding = docker.toolkit.judge(tried(gpus=("GPU-aaaa",)))
    assert (finding.status, finding.summary) == ("pass", "a container sees 1 GPU (i)")


def test_a_container_that_sees_none():
    assert docker.toolkit.judge(tried()).status is Status.FAIL


def test_who_wants_no_container_is_only_warned():
    local = {"KIT_RUNTIME": "local"}
    for found in (tried(), tried(125, error="nvidia-smi: not found")):
        unused = replace(found, environ=local)
        assert docker.toolkit.judge(unused).status is Status.WARN
        decided = replace(unused, serving=serving(GPU, runtime="container"))
        assert docker.toolkit.judge(decided).status is Status.FAIL


def test_no_image_to_try_it_with():
    finding = docker.toolkit.judge(tried(image=None))
    assert finding.status is Status.SKIP
    assert finding.summary.endswith("by hand: docker run i")


NOTHING = replace(TOOLKIT, version=None, hook=False)
BARE = replace(ENGINE, runtimes=("runc",))


@pytest.mark.parametrize(
    ("toolkit", "engine", "status", "words"),
    [
        (TOOLKIT, ENGINE, "pass", "toolkit 1.17.8, mode auto"),
        (NOTHING, BARE, "warn", "is not installed"),
        (TOOLKIT, BARE, "warn", "neither the nvidia runtime nor CDI"),
        (replace(TOOLKIT, specs=(STALE,)), BARE, "warn", "neither the nvidia runtime nor CDI"),
        (
            replace(TOOLKIT, specs=(STALE,)),
            replace(BARE, cdi_folders=(Path("/etc/cdi"),)),
            "pass",
            "1.17.8",
        ),
    ],
)
def test_runtime(toolkit, engine, status, words):
    facts = replace(tried(125), toolkit=toolkit, docker=engine)
    finding = docker.runtime.judge(facts)
    assert finding.status == status
    assert words in finding.summary


def test_what_a_container_got_counts_more_than_files():
    facts = replace(tried(gpus=("GPU-aaaa",)), toolkit=NOTHING, docker=BARE)
    assert docker.runtime.judge(facts).summary == "toolkit of another kind, mode auto"


def test_cdi():
    assert docker.cdi.judge(WORKSTATION).status is Status.SKIP
    stale = replace(WORKSTATION, toolkit=replace(TOOLKIT, specs=(STALE,)))
    finding = docker.cdi.judge(stale)
    assert finding.status is Status.WARN
    assert finding.remedy == "sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
    fresh = replace(STALE, driver="580.65.06")
    unknown = replace(STALE, driver=None)
    facts = replace(WORKSTATION, toolkit=replace(TOOLKIT, specs=(fresh, unknown)))
    assert docker.cdi.judge(facts).status is Status.PASS


@pytest.mark.parametrize(
    ("driver", "changes", "status"),
    [
        ("cgroupfs", {"device_links": False}, "pass"),
        ("systemd", {"device_links": True}, "pass"),
        ("systemd", {"device_links": False, "mode": "cdi"}, "pass"),
        ("systemd", {"device_links": False}, "warn"),
        ("systemd", {"device_links": False, "version": None}, "warn"),
        ("systemd", {"device_links": False, "version": None, "hook": False}, "skip"),
    ],
)
def test_the_daemon_reload_trap(driver, changes, status):
    facts = replace(
        WORKSTATION,
        docker=replace(ENGINE, cgroup_driver=driver),
        toolkit=replace(TOOLKIT, **changes),
    )
    assert docker.cgroups.judge(facts).status == status


@pytest.mark.parametrize(
    ("version", "folders", "specs", "status"),
    [
        ("29.2.0", True, True, "pass"),
        ("30.0.1", True, True, "pass"),
        ("29.1.4", True, True, "warn"),
        ("29.2.0", False, True, "warn"),
        ("29.2.0", True, False, "warn"),
        ("of our own", True, True, "warn"),
    ],
)
def test_what_is_handed_out_by_cdi_survives_a_reload(version, folders, specs, status):
    engine = replace(
        ENGINE,
        version=version,
        cgroup_driver="systemd",
        cdi_folders=(Path("/etc/cdi"),) if folders else (),
    )
    toolkit = replace(TOOLKIT, device_links=False, specs=(STALE,) if specs else ())
    finding = docker.cgroups.judge(replace(WORKSTATION, docker=engine, toolkit=toolkit))
    assert finding.status == status
