import re
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from kit.doctor.check import run
from kit.doctor.facts import Facts
from kit.doctor.finding import Status
from kit.doctor.registry import ADAPTERS, CHECKS
from tests.unit.doctor.machines import LAPTOP, WORKSTATION

IDS = [each.id for each in CHECKS]
FACTS = {field.name for field in fields(Facts)}
PAGE = Path(__file__).parents[3] / "docs" / "doctor.md"


def test_ids_are_stable_names():
    assert len(set(IDS)) == len(IDS)
    assert all(re.fullmatch(r"[a-z]+\.[a-z-]+", name) for name in IDS)


def test_areas_stay_together():
    areas = [each.area for each in CHECKS]
    assert 1 + sum(a != b for a, b in pairwise(areas)) == len(set(areas))


@pytest.mark.parametrize("each", CHECKS, ids=IDS)
def test_what_a_check_needs_comes_before_it(each):
    assert set(each.requires) <= set(IDS[: IDS.index(each.id)])


class Watched:
    """Facts that note which of them were looked at."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.read.add(name)
        return getattr(self._facts, name)


@pytest.mark.parametrize("each", CHECKS, ids=IDS)
@pytest.mark.parametrize("facts", [LAPTOP, WORKSTATION], ids=["laptop", "workstation"])
def test_a_check_reads_what_it_says(each, facts):
    watched = Watched(facts)
    run([each], watched)
    assert watched.read <= set(each.reads)
    assert set(each.reads) <= FACTS


def test_every_fact_is_observed_and_read():
    read = {fact for each in CHECKS for fact in each.reads}
    from_settings = {"budgets", "settings_problem", "environ"}
    assert {adapter.fact for adapter in ADAPTERS} == FACTS - from_settings
    assert read == FACTS


def test_nothing_known_is_no_crash():
    found = {result.check.id: result.finding for result in run(CHECKS, Facts())}
    assert not [name for name, finding in found.items() if finding.status is Status.ERROR]


def test_a_workstation_passes():
    unusual = [
        result
        for result in run(CHECKS, WORKSTATION)
        if result.finding.status not in (Status.PASS, Status.SKIP)
    ]
    assert unusual == []


def test_a_laptop_fails_nothing():
    statuses = {result.finding.status for result in run(CHECKS, LAPTOP)}
    assert statuses == {Status.PASS, Status.WARN, Status.SKIP}


def test_the_page_lists_every_check():
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z]+\.[a-z-]+)` \| (.+?) \| ?(.*?) ?\|$", text, re.MULTILINE)
    expected = [
        (each.id, each.title, ", ".join(f"`{name}`" for name in each.requires)) for each in CHECKS
    ]
    assert rows == expected
