from dataclasses import replace

import pytest

from kit.doctor.checks import memory
from kit.doctor.facts import Budgets
from kit.doctor.finding import Status
from kit.memory.room import Room
from kit.memory.unavailable import Unavailable
from kit.units import GIB, KIB, MIB
from tests.unit.doctor.machines import GPU, LAPTOP, WORKSTATION, serving


def short(limit, free=GIB // 2):
    return Room(f"room of {limit}", free, GIB, "raise it", limit)


@pytest.mark.parametrize(
    ("check", "limit"),
    [
        (memory.ram, "ram"),
        (memory.cgroup, "cgroup"),
        (memory.address_space, "address space"),
    ],
)
def test_rooms(check, limit):
    rooms = (short(limit),)
    facts = replace(LAPTOP, serving=replace(serving(None), rooms=rooms))
    finding = check.judge(facts)
    assert finding.status is Status.FAIL
    assert finding.summary == f"not enough room of {limit}: 1.00 GiB needed, 0.50 GiB there"
    assert finding.remedy == "raise it; or ask for less with --context and --max-sequences"
    unknown = replace(
        facts, serving=replace(facts.serving, rooms=(short(limit, Unavailable("?")),))
    )
    assert check.judge(unknown).status is Status.WARN
    enough = replace(facts, serving=replace(facts.serving, rooms=(short(limit, 2 * GIB),)))
    assert check.judge(enough).status is Status.PASS


def test_of_several_limits_on_what_is_asked_for_the_one_that_is_short_counts():
    rooms = (short("address space", 2 * GIB), replace(short("address space"), what="ulimit -d"))
    finding = memory.address_space.judge(
        replace(LAPTOP, serving=replace(serving(None), rooms=rooms))
    )
    assert finding.summary.startswith("not enough ulimit -d")


def test_no_limits():
    assert memory.cgroup.judge(LAPTOP).summary == "no memory limit on this control group"
    assert memory.address_space.judge(LAPTOP).summary == "ulimit -v and -d unlimited"


@pytest.mark.parametrize(
    ("limit", "status", "words"),
    [
        (None, "pass", "ulimit -l unlimited"),
        (8 * MIB, "pass", "ulimit -l 8.0 MiB"),
        (64 * KIB, "pass", "0.1 MiB"),
        (0, "warn", "almost no memory"),
    ],
)
def test_locked(limit, status, words):
    facts = replace(LAPTOP, memory=replace(LAPTOP.memory, locked_bytes=limit))
    finding = memory.locked.judge(facts)
    assert finding.status == status
    assert words in finding.summary


@pytest.mark.parametrize(
    ("free", "status"),
    [(64 * MIB, "pass"), (63 * MIB, "warn"), (Unavailable("/dev/shm: No such file"), "warn")],
)
def test_shm(free, status):
    facts = replace(LAPTOP, memory=replace(LAPTOP.memory, shm_free_bytes=free))
    assert memory.shm.judge(facts).status == status


@pytest.mark.parametrize(
    ("used", "budget", "status"),
    [
        (None, 30 * GIB, "skip"),
        (GPU, 30 * GIB, "pass"),
        (GPU, 28 * GIB, "fail"),
        (replace(GPU, total_bytes=24 * GIB), 30 * GIB, "skip"),
        (replace(GPU, total_bytes=Unavailable("silent")), 30 * GIB, "pass"),
    ],
)
def test_vram_budget(used, budget, status):
    facts = replace(WORKSTATION, serving=serving(used), budgets=Budgets(budget, None))
    assert memory.vram_budget.judge(facts).status == status


def test_vram_budget_of_several_gpus():
    several = replace(serving(GPU), gpus=(GPU, GPU))
    for budget, status in ((30 * GIB, "pass"), (10 * GIB, "fail")):
        facts = replace(WORKSTATION, serving=several, budgets=Budgets(budget, None))
        assert memory.vram_budget.judge(facts).status == status


@pytest.mark.parametrize(("budget", "status"), [(None, "pass"), (GIB, "pass"), (GIB - 1, "fail")])
def test_ram_budget(budget, status):
    facts = replace(LAPTOP, budgets=Budgets(30 * GIB, budget))
    assert memory.ram_budget.judge(facts).status == status
