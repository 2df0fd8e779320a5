import pytest

from kit.doctor.finding import Evidence, Finding, Status, failure, passed, skipped, warning

SEEN = Evidence("nvidia-smi", "3 GiB", "29 GiB")


@pytest.mark.parametrize("status", [Status.WARN, Status.FAIL])
@pytest.mark.parametrize(
    ("evidence", "remedy"), [((), "do it"), ((SEEN,), None), ((SEEN,), ""), ((), None)]
)
def test_a_problem_without_evidence_or_remedy_cannot_be_built(status, evidence, remedy):
    with pytest.raises(ValueError, match=f"{status} without evidence and remedy: bad"):
        Finding(status, "bad", evidence, remedy)


def test_each_status_has_its_maker():
    assert passed("good").status is Status.PASS
    assert warning("bad", SEEN, remedy="do it") == Finding(Status.WARN, "bad", (SEEN,), "do it")
    assert failure("bad", SEEN, remedy="do it").status is Status.FAIL
    assert skipped("nothing to see").status is Status.SKIP
    assert Finding(Status.ERROR, "crashed").evidence == ()
