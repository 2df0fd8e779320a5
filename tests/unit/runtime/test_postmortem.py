from pathlib import Path

import pytest

from kit.errors import BudgetExceeded, EnvironmentNotReady, IntegrityError, ServiceError
from kit.memory.unavailable import Unavailable
from kit.runtime import postmortem
from kit.runtime.client import Failed
from kit.runtime.postmortem import refusal
from kit.runtime.protocol import Running, ServeSpec
from kit.units import GIB

EARLIER = Unavailable("started by an earlier command")
SPEC = ServeSpec(Path("/m"), "m", "127.0.0.1", 8000, 64, 1, "cpu", max_ram_bytes=2 * GIB)


SILENT = Unavailable("the kernel's log cannot be read")


def ended(exit_code, **facts):
    return Running(SPEC, False, "process 7", 7, 0.0, exit_code, **facts)


def explain(death, log, lived=None, kills=SILENT):
    return postmortem.explain(death, log, lived, kills=lambda: kills)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (3, EnvironmentNotReady),
        (4, IntegrityError),
        (5, BudgetExceeded),
        (1, ServiceError),
        (EARLIER, ServiceError),
    ],
)
def test_what_the_server_said_is_passed_on(code, kind):
    error = explain(ended(code), ["loading", "error: no such thing", "hint: make one"])
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
        (1, ["RuntimeError: Found no NVIDIA driver on your system"], "no GPU that it can use"),
        (1, ["The NVIDIA driver on your system is too old (found 11040)"], "driver is too old"),
        (1, ["CUDA error: no kernel image is available for execution"], "no kernels for the GPU"),
        (1, ["Traceback", "RuntimeError: boom", ""], "RuntimeError: boom"),
        (1, ["boom"], "did not say why"),
        (EARLIER, [], "did not say why"),
        (0, [], "it was stopped from outside (docker stop, or the engine ended)"),
        (255, [], "the Docker engine ended"),
    ],
)
def test_cause(code, log, cause):
    error = explain(ended(code), log)
    assert type(error) is ServiceError
    assert cause in error.message
    assert error.hint


def test_exit_code_is_named_where_it_is_known():
    assert "exit code 137" in explain(ended(137), []).message
    assert "exit code" not in explain(ended(EARLIER), []).message


def test_the_last_error_counts():
    log = ["error: an old one", "hint: old", "error: the real one", "hint: new"]
    error = explain(ended(3), log)
    assert (error.message, error.hint) == ("the server ended: the real one", "new")


def test_a_kill_at_the_containers_limit_is_a_breach_of_the_budget():
    error = explain(ended(137, out_of_memory=True), ["loading", "error: of an earlier start"])
    assert type(error) is BudgetExceeded
    assert "exit code 137" in error.message
    assert "memory limit of 2.00 GiB" in error.message
    assert "--max-ram" in error.hint


@pytest.mark.parametrize(("code", "kind"), [(5, BudgetExceeded), (1, ServiceError)])
def test_a_server_that_refuses_is_raised_as_what_it_says(code, kind):
    error = refusal(Failed("over", "less", code))
    assert type(error) is kind
    assert (error.message, error.hint) == ("over", "less")
