import pytest

from kit.doctor.check import Check
from kit.doctor.examine import Report, chosen, examine, with_requirements
from kit.doctor.finding import Evidence, Finding, Status, failure, passed, skipped, warning
from kit.doctor.request import Request
from kit.errors import UsageError
from kit.settings import Settings

SEEN = Evidence("here", "bad", "good")
FOUND = {
    "pass": passed("good"),
    "skip": skipped("nothing"),
    "warn": warning("odd", SEEN, remedy="mend it"),
    "fail": failure("bad", SEEN, remedy="mend it"),
    "error": Finding(Status.ERROR, "crashed"),
}


def report(tmp_path, *names: str) -> Report:
    checks = [
        Check(f"x.{name}", name, (), (), lambda facts, name=name: FOUND[name]) for name in names
    ]
    return examine(Request(Settings(tmp_path, tmp_path)), checks=checks)


@pytest.mark.parametrize(
    ("names", "worst", "code", "strict"),
    [
        (("pass", "skip"), "pass", 0, 0),
        (("pass", "warn"), "warn", 0, 1),
        (("error", "warn"), "error", 0, 1),
        (("fail", "error", "warn", "pass"), "fail", 1, 1),
        ((), "pass", 0, 0),
    ],
)
def test_exit_codes(tmp_path, names, worst, code, strict):
    found = report(tmp_path, *names)
    assert found.worst == worst
    assert (found.exit_code(strict=False), found.exit_code(strict=True)) == (code, strict)
    assert sum(found.counts.values()) == len(names)


def test_only_what_is_read_is_looked_at(tmp_path):
    seen = []
    checks = [
        Check("x.one", "one", ("memory",), (), lambda facts: seen.append(facts) or passed("good")),
        Check("x.two", "two", ("machine",), (), lambda facts: passed("good")),
    ]
    examine(Request(Settings(tmp_path, tmp_path)), checks=checks, skip=("x.two",))
    assert seen[0].memory.total_bytes > 0
    assert seen[0].machine.reason == "it was not asked for"


def test_names_are_ids_or_areas():
    assert chosen(["gpu.memory"]) == {"gpu.memory"}
    assert chosen(["clock", "gpu.driver"]) == {"clock.plausible", "clock.skew", "gpu.driver"}
    assert chosen([]) == frozenset()


@pytest.mark.parametrize("name", ["gpu.nonsense", "nonsense", "", "gpu."])
def test_an_unknown_name_is_wrong_usage(name):
    with pytest.raises(UsageError, match="there is no check"):
        chosen([name])


def test_requirements_come_along_in_order():
    ids = [each.id for each in with_requirements(["torch.driver", "memory.ram"])]
    assert ids == ["gpu.driver", "gpu.visible", "torch.build", "torch.driver", "memory.ram"]
