from kit.doctor.check import Check, check, known, run
from kit.doctor.facts import Facts
from kit.doctor.finding import Evidence, Finding, Status, failure, passed, warning

SEEN = Evidence("here", "bad", "good")


def make(name: str, finding: Finding, *requires: str) -> Check:
    return Check(name, name, (), requires, lambda facts: finding)


def statuses(*checks: Check, skip: tuple[str, ...] = ()) -> dict[str, str]:
    results = run(checks, Facts(), skip)
    assert [result.check for result in results] == list(checks)
    return {result.check.id: result.finding.status.value for result in results}


GOOD = make("a.good", passed("good"))
BAD = make("a.bad", failure("bad", SEEN, remedy="mend it"))
ODD = make("a.odd", warning("odd", SEEN, remedy="mend it"))


def test_what_needs_a_check_that_did_not_pass_is_skipped():
    child = make("b.child", passed("good"), "a.good", "a.bad")
    found = run((GOOD, BAD, child), Facts())
    assert found[2].finding == Finding(Status.SKIP, "needs a.bad")
    assert found[2].cause == "a.bad"
    assert statuses(ODD, make("b.child", passed("good"), "a.odd"))["b.child"] == "skip"


def test_the_first_cause_is_named():
    child = make("b.child", passed("good"), "a.bad")
    grandchild = make("c.grandchild", passed("good"), "b.child")
    assert run((BAD, child, grandchild), Facts())[2].cause == "a.bad"


def test_what_the_user_skips_is_not_shown_and_counts_nevertheless():
    child = make("b.child", passed("good"), "a.bad")
    found = run((BAD, child), Facts(), skip=("a.bad",))
    assert found[0].finding == Finding(Status.SKIP, "skipped with --skip")
    assert (found[1].finding.status, found[1].cause) == (Status.SKIP, "a.bad")
    child = make("b.child", passed("good"), "a.good")
    assert statuses(GOOD, child, skip=("a.good",)) == {"a.good": "skip", "b.child": "pass"}


def test_a_requirement_that_was_not_run_is_none():
    assert statuses(make("b.child", passed("good"), "a.bad")) == {"b.child": "pass"}


@check("x.crash", "crashes", reads=[])
def crash(facts: Facts) -> Finding:
    raise RuntimeError("no\nway")


def test_a_check_that_crashes_is_an_error_and_the_others_go_on():
    found = run((crash, GOOD), Facts())
    assert [result.finding.status for result in found] == [Status.ERROR, Status.PASS]
    finding = found[0].finding
    assert finding.summary.startswith("the check itself failed: RuntimeError: no")
    assert finding.evidence[0].source.rpartition(":")[0] == __file__
    assert finding.remedy == "please report it; --skip x.crash silences it"


@check("x.reads", "reads a fact", reads=["torch"])
def reads(facts: Facts) -> Finding:
    return passed(known(facts.torch).version)


def test_a_fact_that_could_not_be_had_is_a_skip():
    (result,) = run((reads,), Facts())
    assert result.finding == Finding(Status.SKIP, "it was not asked for")


def test_area():
    assert crash.area == "x"
