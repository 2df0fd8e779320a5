import pytest

from kit.errors import EnvironmentNotReady, IntegrityError, ServiceError
from kit.memory.unavailable import Unavailable
from kit.stack.postmortem import explain

EARLIER = Unavailable("started by an earlier command")


@pytest.mark.parametrize(
    ("code", "kind"),
    [(3, EnvironmentNotReady), (4, IntegrityError), (1, ServiceError), (EARLIER, ServiceError)],
)
def test_what_the_server_said_is_passed_on(code, kind):
    error = explain(code, ["loading", "error: no such thing", "hint: make one"])
    assert type(error) is kind
    assert error.message == "the server ended: no such thing"
    assert error.hint == "make one"


@pytest.mark.parametrize(
    ("code", "log", "cause"),
    [
        (137, [], "memory ran out"),
        (143, [], "stopped (SIGTERM)"),
        (139, [], "crashed"),
        (1, ["torch.OutOfMemoryError: CUDA out of memory. Tried"], "the GPU's memory ran out"),
        (1, ["MemoryError"], "host memory ran out"),
        (134, ["terminate called after 'std::bad_alloc'"], "host memory ran out"),
        (1, ["OSError: [Errno 98] Address already in use"], "port was taken"),
        (1, ["ModuleNotFoundError: No module named 'torch'"], "not installed"),
        (1, ["boom"], "did not say why"),
        (EARLIER, [], "did not say why"),
    ],
)
def test_cause(code, log, cause):
    error = explain(code, log)
    assert type(error) is ServiceError
    assert cause in error.message
    assert error.hint


def test_exit_code_is_named_where_it_is_known():
    assert "exit code 137" in explain(137, []).message
    assert "exit code" not in explain(EARLIER, []).message


def test_the_last_error_counts():
    error = explain(3, ["error: an old one", "hint: old", "error: the real one", "hint: new"])
    assert (error.message, error.hint) == ("the server ended: the real one", "new")
