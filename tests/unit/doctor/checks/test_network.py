from dataclasses import replace
from datetime import timedelta

import pytest

from kit.doctor.check import run
from kit.doctor.checks import network
from kit.doctor.facts import Reply
from kit.doctor.finding import Status
from kit.memory.unavailable import Unavailable
from tests.unit.doctor.machines import LAPTOP

DOWN = Reply("https://one.example", "source one", "Connection refused")
UP = Reply("https://two.example", "source two", None, 1.0)


def test_one_source_is_enough():
    facts = replace(LAPTOP, weights_sources=(DOWN, UP))
    assert network.weights.judge(facts).summary == "https://two.example (source two)"
    finding = network.weights.judge(replace(LAPTOP, weights_sources=(DOWN, DOWN)))
    assert finding.status is Status.WARN
    assert [seen.observed for seen in finding.evidence] == ["Connection refused"] * 2
    assert finding.evidence[0].source == "https://one.example (source one)"


def test_index_and_registry():
    assert network.index.judge(LAPTOP).status is Status.PASS
    assert network.index.judge(replace(LAPTOP, index=DOWN)).status is Status.WARN
    assert network.registry.judge(replace(LAPTOP, registry=UP)).status is Status.PASS
    assert network.registry.judge(replace(LAPTOP, registry=DOWN)).status is Status.WARN


def test_offline():
    offline = Unavailable("--offline: the network is left alone")
    facts = replace(LAPTOP, weights_sources=offline, index=offline, registry=offline)
    checks = [network.weights, network.index, network.registry, network.skew]
    assert [r.finding.status for r in run(checks, facts)] == [Status.SKIP] * 4


def test_a_clock_before_what_has_happened():
    assert network.plausible.judge(LAPTOP).summary == "2026-11-26 12:00:00+00:00"
    clock = replace(LAPTOP.clock, now=LAPTOP.clock.not_before - timedelta(seconds=1))
    finding = network.plausible.judge(replace(LAPTOP, clock=clock))
    assert finding.status is Status.WARN
    assert finding.evidence[0].expected == "after 2026-11-01 00:00:00+00:00: a literal"


@pytest.mark.parametrize(
    ("ahead", "status", "words"),
    [
        (0.4, "pass", "within 1 s of"),
        (-89.0, "pass", "within 89 s of"),
        (300.0, "warn", "the clock is 300 s behind"),
        (-300.0, "warn", "the clock is 300 s ahead"),
    ],
)
def test_skew(ahead, status, words):
    reply = replace(UP, server_ahead_seconds=ahead)
    facts = replace(LAPTOP, weights_sources=(DOWN, reply), registry=DOWN)
    finding = network.skew.judge(facts)
    assert finding.status == status
    assert words in finding.summary


def test_the_server_that_agrees_best_is_believed():
    wrong = replace(UP, server_ahead_seconds=9999.0)
    facts = replace(LAPTOP, weights_sources=(wrong,), registry=UP)
    assert network.skew.judge(facts).status is Status.PASS


def test_no_server_told_the_time():
    silent = replace(UP, server_ahead_seconds=Unavailable("the answer has no Date"))
    facts = replace(LAPTOP, weights_sources=(silent,), registry=DOWN)
    assert network.skew.judge(facts).status is Status.SKIP
