import pytest
from serve_fakes import FakeEngine, source

from kit.errors import BudgetExceeded, IntegrityError
from kit.serve.api.errors import ApiError
from kit.serve.readiness import Breach, Failed, Loading, Readiness, Ready, Stopping


def test_it_begins_with_loading() -> None:
    assert Readiness().state() == Loading("startup", 0.0)


def test_loading_makes_it_ready() -> None:
    readiness = Readiness()
    readiness.load(source(FakeEngine()))
    assert isinstance(readiness.state(), Ready)
    assert readiness.model() is readiness.loaded


def test_a_failed_load_says_why() -> None:
    readiness, engine = Readiness(), FakeEngine()
    engine.load_error = IntegrityError("damaged", hint="fetch it again")
    with pytest.raises(IntegrityError):
        readiness.load(source(engine))
    assert readiness.state() == Failed("damaged", "fetch it again", 4)
    with pytest.raises(ApiError, match="damaged") as caught:
        readiness.model()
    assert caught.value.status == 503
    assert not caught.value.headers


def test_stopping_is_final() -> None:
    readiness = Readiness()
    readiness.stop()
    readiness.load(source(FakeEngine()))
    assert readiness.state() == Stopping()
    with pytest.raises(ApiError, match="stopping"):
        readiness.model()


def test_a_breach_ends_readiness_while_it_lasts() -> None:
    readiness = Readiness()
    readiness.load(source(FakeEngine()))
    readiness.breach = Breach("over", "less", BudgetExceeded.exit_code, ends_readiness=True)
    assert readiness.state() == Failed("over", "less", 5)
    with pytest.raises(ApiError, match="over"):
        readiness.model()
    readiness.breach = None
    assert isinstance(readiness.state(), Ready)


def test_a_breach_that_is_only_reported_leaves_it_ready() -> None:
    readiness = Readiness()
    readiness.load(source(FakeEngine()))
    readiness.breach = Breach("over", "less", BudgetExceeded.exit_code, ends_readiness=False)
    assert readiness.model() is readiness.loaded
