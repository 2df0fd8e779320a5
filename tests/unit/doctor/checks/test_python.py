from dataclasses import replace

import pytest

from kit.doctor.checks import python
from kit.doctor.finding import Status
from kit.errors import EnvironmentNotReady
from tests.unit.doctor.machines import GPU, LAPTOP, WORKSTATION, serving

LACKING = EnvironmentNotReady("serving needs packages that are not installed: torch", hint="pip")


def with_python(**changes):
    return replace(LAPTOP, interpreter=replace(LAPTOP.interpreter, **changes))


@pytest.mark.parametrize(
    ("version", "status"),
    [((3, 11, 0), "pass"), ((3, 14, 2), "pass"), ((3, 15, 0), "warn"), ((3, 10, 9), "warn")],
)
def test_version(version, status):
    assert python.version.judge(with_python(version=version)).status == status


def test_environment():
    assert python.environment.judge(LAPTOP).status is Status.PASS
    shared = with_python(virtual=False)
    assert python.environment.judge(shared).status is Status.WARN
    inside = replace(shared, machine=replace(shared.machine, container="docker"))
    assert python.environment.judge(inside).status is Status.PASS


def test_packages_are_needed_by_a_local_server():
    assert python.packages.judge(LAPTOP).status is Status.PASS
    lacking = with_python(lacking=LACKING)
    finding = python.packages.judge(lacking)
    assert (finding.status, finding.summary, finding.remedy) == ("warn", LACKING.message, "pip")
    assert finding.evidence[0].observed == "torch"
    local = replace(lacking, serving=serving(GPU, runtime="local"))
    assert python.packages.judge(local).status is Status.FAIL
    container = replace(WORKSTATION, serving=serving(GPU, runtime="container"))
    assert python.packages.judge(container).status is Status.PASS
