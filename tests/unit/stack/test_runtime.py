import pytest

from kit.errors import EnvironmentNotReady
from kit.stack.runtime import Choice, HostFacts, choose_runtime

BOTH = HostFacts(gpu=True, docker=True)
NEITHER = HostFacts(gpu=False, docker=False)
LOCAL = ("local",)
ALL = ("local", "container")


@pytest.mark.parametrize(
    ("wanted", "facts", "available", "expected"),
    [
        ("auto", NEITHER, ALL, "local"),
        ("auto", HostFacts(gpu=True, docker=False), ALL, "local"),
        ("auto", HostFacts(gpu=False, docker=True), ALL, "local"),
        ("auto", BOTH, ALL, "container"),
        ("local", BOTH, ALL, "local"),
        ("container", HostFacts(gpu=False, docker=True), ALL, "container"),
    ],
)
def test_choice(wanted, facts, available, expected):
    assert choose_runtime(wanted, facts, available) == Choice(expected)


def test_auto_says_why_it_is_not_a_container():
    choice = choose_runtime("auto", BOTH, LOCAL)
    assert choice.runtime == "local"
    assert choice.note is not None
    assert "no container runtime yet" in choice.note


@pytest.mark.parametrize(
    ("facts", "available", "reason"),
    [(BOTH, LOCAL, "no container runtime"), (NEITHER, ALL, "no Docker engine")],
)
def test_a_container_that_cannot_be(facts, available, reason):
    with pytest.raises(EnvironmentNotReady, match=reason):
        choose_runtime("container", facts, available)
