from dataclasses import replace
from pathlib import Path

import pytest

from kit.doctor.checks import state
from kit.doctor.facts import NotServable, UpstreamTree, WeightsFolder
from kit.doctor.finding import Status
from kit.units import GIB
from tests.unit.doctor.machines import LAPTOP, WORKSTATION

SERVICE = LAPTOP.service


def test_settings():
    assert state.settings.judge(LAPTOP).status is Status.PASS
    finding = state.settings.judge(replace(LAPTOP, settings_problem="not a size: '24G'"))
    assert (finding.status, finding.summary) == ("fail", "not a size: '24G'")


def test_model():
    expected = "demo on the CPU, 4096 tokens of context, 1 at once"
    assert state.model.judge(LAPTOP).summary == expected
    assert "on the GPU" in state.model.judge(WORKSTATION).summary
    finding = state.model.judge(replace(LAPTOP, serving=NotServable("there is no /x", "make it")))
    assert (finding.status, finding.summary, finding.remedy) == (
        "fail",
        "there is no /x",
        "make it",
    )


@pytest.mark.parametrize("problem", [{"lock_problem": "damaged"}, {"demo_problem": "damaged"}])
def test_lock(problem):
    assert state.lock.judge(LAPTOP).status is Status.PASS
    finding = state.lock.judge(replace(LAPTOP, weights=WeightsFolder(**problem)))
    assert (finding.status, finding.summary) == ("fail", "damaged")


@pytest.mark.parametrize(
    ("folder", "status", "words"),
    [
        (WeightsFolder(), "pass", "none yet but the demo"),
        (WeightsFolder(converted=(Path("/d/demo-1-bf16"),)), "pass", "none yet but the demo"),
        (WeightsFolder(converted=(Path("/d/spark-bf16"),)), "pass", "1 model: spark-bf16"),
        (WeightsFolder(unfinished=(("chat", GIB, 53 * GIB),)), "warn", "download of chat"),
        (WeightsFolder(unfinished=(("chat", GIB, None),)), "warn", "download of chat"),
        (WeightsFolder(old_code=(Path("/d/a b"),)), "warn", "code of an older kit"),
        (WeightsFolder(catalogue_problem="cannot use it"), "fail", "cannot use it"),
        (WeightsFolder(damaged=(Path("/d/spark-bf16"),)), "fail", "not whole"),
    ],
)
def test_weights(folder, status, words):
    finding = state.weights.judge(replace(LAPTOP, weights=folder))
    assert finding.status == status
    assert words in finding.summary


@pytest.mark.parametrize(
    ("name", "status"),
    [("absent", "skip"), ("rewritten", "pass"), ("outdated", "warn"), ("drifted", "fail")],
)
def test_upstream(name, status):
    problem = "it is wrong" if status in ("warn", "fail") else None
    tree = UpstreamTree(Path("/data/upstream/rewritten"), name, problem)
    finding = state.upstream.judge(replace(LAPTOP, upstream=tree))
    assert finding.status == status


def test_port():
    assert state.port.judge(LAPTOP).summary == "127.0.0.1:8000 is free"
    own = replace(LAPTOP, service=replace(SERVICE, state="ready"))
    assert state.port.judge(own).summary == "127.0.0.1:8000 is the kit's"
    taken = replace(SERVICE, port_problem="port 8000 is not free", port_remedy="another: 8001")
    finding = state.port.judge(replace(LAPTOP, service=taken))
    assert (finding.status, finding.remedy) == ("fail", "another: 8001")


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("stopped", "pass"),
        ("ready", "pass"),
        ("loading", "pass"),
        ("failed", "fail"),
        ("silent", "fail"),
        ("dead", "fail"),
    ],
)
def test_state(name, status):
    found = replace(SERVICE, state=name, detail=f"it is {name}")
    assert state.state.judge(replace(LAPTOP, service=found)).status == status


@pytest.mark.parametrize(
    ("device", "status"), [(None, "skip"), ("cuda", "pass"), ("cuda:0", "pass"), ("cpu", "warn")]
)
def test_a_service_on_the_cpu_beside_a_gpu(device, status):
    facts = replace(WORKSTATION, service=replace(SERVICE, state="ready", device=device))
    assert state.device.judge(facts).status == status
