import pytest

from kit.errors import EnvironmentNotReady
from kit.runtime.protocol import HostFacts, choose_runtime, docker_engine_found

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
        ("auto", BOTH, LOCAL, "local"),
        ("local", BOTH, ALL, "local"),
        ("container", HostFacts(gpu=False, docker=True), ALL, "container"),
    ],
)
def test_choice(wanted, facts, available, expected):
    assert choose_runtime(wanted, facts, available) == expected


def test_a_container_that_cannot_be():
    with pytest.raises(EnvironmentNotReady, match="no Docker engine"):
        choose_runtime("container", NEITHER, ALL)


def test_where_an_engine_is_looked_for(tmp_path):
    assert docker_engine_found({"DOCKER_HOST": "tcp://10.0.0.1:2376"})
    (tmp_path / "docker.sock").touch()
    assert docker_engine_found({"XDG_RUNTIME_DIR": str(tmp_path)})
