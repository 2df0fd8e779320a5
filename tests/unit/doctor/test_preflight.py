from dataclasses import replace

import pytest

from kit.doctor import examine as examine_module
from kit.doctor.examine import CONTAINER, FETCH, LOCAL, examine, require, with_requirements
from kit.doctor.registry import CHECKS, needed
from kit.doctor.request import Decided, Request
from kit.errors import EnvironmentNotReady
from kit.memory.plan.torch_build import CPU_BUILD
from kit.memory.unavailable import Unavailable
from kit.service.preflight import Freed
from kit.settings import Settings
from kit.units import GIB, KIB
from tests.unit.doctor.machines import GPU, plan

TIB = 1024 * GIB


@pytest.fixture
def request_(tmp_path):
    return Request(
        Settings(tmp_path, tmp_path),
        environ={"PATH": str(tmp_path), "DOCKER_HOST": "unix:///no/such/socket"},
    )


def about(request, needs_bytes, **changes):
    decided = Decided("a-model", plan(None, needs_bytes), CPU_BUILD, (), "local")
    return replace(request, decided=replace(decided, **changes))


@pytest.mark.parametrize("ids", [LOCAL, CONTAINER, FETCH])
def test_the_sets_name_checks(ids):
    assert set(ids) <= {each.id for each in CHECKS}


def test_what_fits_may_start(request_):
    assert require(LOCAL, about(request_, KIB)) == ()


def test_what_does_not_fit_is_refused_with_evidence_and_remedy(request_):
    with pytest.raises(EnvironmentNotReady) as caught:
        require(LOCAL, about(request_, 999 * TIB))
    assert caught.value.message.startswith("not enough RAM (MemAvailable)")
    assert "1022976.00 GiB needed" in caught.value.message
    assert "--context" in caught.value.hint
    assert "--no-preflight" in caught.value.hint


def test_what_the_old_service_frees_counts(request_):
    request = about(request_, 999 * TIB, freed=Freed(1000 * TIB, {}))
    assert require(("memory.ram",), request) == ()


def test_what_cannot_be_measured_is_a_warning(request_, monkeypatch):
    from kit.memory.probes import proc

    monkeypatch.setattr(proc, "available_ram_bytes", lambda: Unavailable("no /proc"))
    (warning,) = require(("memory.ram",), about(request_, KIB))
    assert warning.startswith("RAM (MemAvailable) unknown")


def test_only_the_named_checks_refuse(request_):
    """The GPU's checks are skipped where there is no driver; that alone refuses nothing."""
    assert require(("torch.driver", "gpu.memory"), about(request_, KIB, gpus=(GPU,))) == ()


def test_evidence_is_told_where_the_summary_lacks_it(request_):
    with pytest.raises(EnvironmentNotReady) as caught:
        require(("docker.engine",), about(request_, KIB, runtime="container"))
    assert caught.value.message.startswith(
        "the Docker engine cannot be used (Docker engine: asking the Docker engine failed: "
    )


def test_everything_that_is_wrong_is_told(request_):
    request = about(request_, 999 * TIB, runtime="container")
    with pytest.raises(EnvironmentNotReady) as caught:
        require(("docker.engine", "memory.ram"), request)
    assert "; also: not enough RAM" in caught.value.hint


def test_nothing_else_is_looked_at(request_, monkeypatch):
    asked = []
    real = examine

    def spy(request, *, checks):
        asked.extend(each.id for each in checks)
        return real(request, checks=checks)

    monkeypatch.setattr(examine_module, "examine", spy)
    require(FETCH, request_)
    assert asked == ["disk.writable", "clock.plausible"]
    reads = {fact for each in with_requirements(FETCH) for fact in each.reads}
    assert [each.fact for each in needed(reads)] == ["clock", "folders"]
