import importlib
import inspect
import threading
from dataclasses import replace

import pytest

from kit.doctor.gather import Adapter, gather
from kit.doctor.registry import ADAPTERS, look_in, needed
from kit.doctor.request import Decided, Request
from kit.errors import EnvironmentNotReady, UsageError
from kit.memory.plan.torch_build import CPU_BUILD
from kit.memory.unavailable import Unavailable
from kit.settings import Settings
from tests.unit.doctor.machines import LAPTOP, WORKSTATION, plan

NO_GPU = replace(WORKSTATION, nvidia=LAPTOP.nvidia)


@pytest.fixture
def request_(tmp_path):
    return Request(Settings(tmp_path, tmp_path), environ={"A": "b"})


def test_facts_are_gathered(request_):
    facts = gather(request_, [Adapter("torch", lambda request, facts: "seen")])
    assert facts.torch == "seen"
    assert facts.docker == Unavailable("it was not asked for")
    assert facts.environ == {"A": "b"}
    assert facts.budgets.max_vram_bytes == 30 << 30


def test_one_builds_on_others(request_):
    adapters = [
        Adapter("disk", lambda request, facts: f"{facts.image} disk", after=("image",)),
        Adapter("image", lambda request, facts: f"{facts.docker} image", after=("docker",)),
        Adapter("docker", lambda request, facts: "docker"),
        Adapter("probe", lambda request, facts: facts.toolkit, after=("toolkit",)),
    ]
    facts = gather(request_, adapters)
    assert facts.disk == "docker image disk"
    assert facts.probe == Unavailable("it was not asked for")


def crash(request, facts):
    raise RuntimeError("no\n way")


def refuse(request, facts):
    raise EnvironmentNotReady("nothing there", hint="get it")


def test_a_look_that_raises_is_unavailable(request_):
    facts = gather(request_, [Adapter("torch", crash), Adapter("docker", refuse)])
    assert facts.torch == Unavailable("looking failed (RuntimeError: no way)")
    assert facts.docker == Unavailable("nothing there")


def test_a_look_that_hangs_is_left_behind(request_):
    release = threading.Event()
    adapters = [
        Adapter("torch", lambda request, facts: release.wait(), seconds=0.05),
        Adapter("docker", lambda request, facts: facts.torch, after=("torch",)),
    ]
    facts = gather(request_, adapters)
    release.set()
    assert facts.torch == Unavailable("no answer in time")
    assert facts.docker == Unavailable("no answer in time")


def test_what_is_waited_for_is_told(request_):
    told = []
    adapters = [
        Adapter("docker", lambda request, facts: 1),
        Adapter("image", lambda request, facts: 2, after=("docker",)),
    ]
    gather(request_, adapters, lambda waiting: told.append(tuple(waiting)))
    assert told == [("docker", "image"), ("image",)]


def test_a_setting_that_cannot_be_understood(tmp_path):
    problem = UsageError("not a size", hint="write a unit")
    facts = gather(Request(Settings(tmp_path, tmp_path), settings_problem=problem), [])
    assert facts.settings_problem == "not a size"


def test_needed_adapters_come_with_what_they_build_on():
    assert [each.fact for each in needed({"disk"})] == ["nvidia", "docker", "image", "disk"]
    assert needed({"environ"}) == ()
    assert needed({each.fact for each in ADAPTERS}) == ADAPTERS


def test_no_container_is_started_for_what_is_served_on_the_cpu(request_):
    """A literal GPU and engine, and a PATH with no docker on it: there is no image, then."""
    decided = Decided("demo", plan(None), CPU_BUILD, (), "container")
    (probe,) = (each for each in ADAPTERS if each.fact == "probe")
    asked = replace(request_, decided=decided, environ={"PATH": "/nowhere"})
    assert probe.look(asked, WORKSTATION) == Unavailable("it is to be served on the CPU")
    assert probe.look(replace(asked, decided=None), WORKSTATION).image is None


@pytest.mark.parametrize(
    ("facts", "reason"),
    [(LAPTOP, "there is no Docker engine"), (NO_GPU, "there is no GPU to look for")],
)
def test_a_container_is_started_only_where_it_could_find_something(request_, facts, reason):
    (probe,) = (each for each in ADAPTERS if each.fact == "probe")
    assert probe.look(request_, facts).reason == reason


def test_every_adapter_is_there():
    for each in ADAPTERS:
        named = inspect.getclosurevars(each.look).nonlocals
        module = importlib.import_module(f"kit.doctor.gather.{named['module']}")
        found = getattr(module, named["function"])
        assert list(inspect.signature(found).parameters) == ["request", "facts"]


def test_an_adapter_that_cannot_be_imported_is_one_fact_less(request_):
    facts = gather(request_, [Adapter("torch", look_in("no_such_module"))])
    assert "ModuleNotFoundError" in facts.torch.reason


def test_adapters_build_on_adapters_without_a_circle():
    done: set[str] = set()
    left = list(ADAPTERS)
    while left:
        ready = [each for each in left if done.issuperset(each.after)]
        assert ready, f"a circle among {[each.fact for each in left]}"
        done |= {each.fact for each in ready}
        left = [each for each in left if each not in ready]
