from dataclasses import replace

import pytest

from kit.doctor.checks import machine
from kit.doctor.facts import Facts
from kit.doctor.finding import Status
from kit.memory.unavailable import Unavailable
from tests.unit.doctor.machines import LAPTOP

HERE = LAPTOP.machine


def on(**changes):
    return Facts(machine=replace(HERE, **changes))


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({}, Status.PASS, "Linux 6.8.0 on x86_64, glibc 2.39"),
        ({"arch": "aarch64"}, Status.PASS, "aarch64"),
        ({"arch": "riscv64"}, Status.FAIL, "no packages for riscv64"),
        ({"libc": ("glibc", (2, 27))}, Status.FAIL, "glibc 2.27 is too old"),
        ({"libc": ("glibc", (2, 28))}, Status.PASS, "glibc 2.28"),
        ({"libc": Unavailable("not the GNU one")}, Status.FAIL, "this C library"),
    ],
)
def test_platform(changes, status, words):
    finding = machine.platform.judge(on(**changes))
    assert finding.status is status
    assert words in finding.summary


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, Status.PASS),
        ({"cpu_flags": frozenset({"avx"})}, Status.WARN),
        ({"cpu_flags": frozenset()}, Status.SKIP),
        ({"arch": "aarch64", "cpu_flags": frozenset({"asimd"})}, Status.PASS),
        ({"arch": "riscv64"}, Status.SKIP),
    ],
)
def test_cpu(changes, status):
    assert machine.cpu.judge(on(**changes)).status is status


@pytest.mark.parametrize(
    ("version", "status"), [(None, Status.PASS), (1, Status.FAIL), (2, Status.PASS)]
)
def test_wsl(version, status):
    assert machine.wsl.judge(on(wsl=version)).status is status
