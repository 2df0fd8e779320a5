"""Why a server ended: from its exit code, what the kernel did, and the last lines it wrote."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kit.errors import BudgetExceeded, EnvironmentNotReady, IntegrityError, KitError, ServiceError
from kit.memory import kernel_log
from kit.memory.kernel_log import Kill
from kit.memory.plan import Pool
from kit.memory.unavailable import Unavailable
from kit.runtime.client import Failed
from kit.runtime.out_of_memory import LESS, SIGKILL, Death, Lived, out_of_memory, says_no_memory
from kit.runtime.protocol import Running


@dataclass(frozen=True)
class _Cause:
    """If one of ``marks`` stands in the log, this is what happened."""

    marks: tuple[str, ...]
    what: str
    hint: str


# The kernel's log counts from the start of the machine and drifts from the clock.
_CLOCKS_DIFFER_SECONDS = 5.0
_CAUSES = (
    _Cause(
        ("address already in use", "Address already in use"),
        "its port was taken by another program",
        "choose another port: kit up --port",
    ),
    _Cause(
        ("CUDA driver version is insufficient", "NVIDIA driver on your system is too old"),
        "the NVIDIA driver is too old for this build of torch",
        "update the driver: CUDA 12 needs 525 or newer, CUDA 13 needs 580",
    ),
    _Cause(
        ("no kernel image is available",),
        "this build of torch has no kernels for the GPU",
        "kit doctor names the GPU's architecture; --device cpu needs none",
    ),
    _Cause(
        ("Found no NVIDIA driver", "No CUDA GPUs are available", "CUDA unknown error"),
        "it found no GPU that it can use",
        "look at nvidia-smi; in a container: sudo systemctl restart docker",
    ),
    _Cause(
        ("No module named 'torch'", "No module named 'fastapi'", "No module named 'transformers'"),
        "the packages that serving needs are not installed",
        "install them: make setup",
    ),
)
_AGAIN = "start it again: kit up"
_EXCEPTION = re.compile(r"[A-Za-z_.]+(Error|Exception): .")
_SIGNALLED = {
    0: _Cause((), "it was stopped from outside (docker stop, or the engine ended)", _AGAIN),
    255: _Cause((), "the Docker engine ended without stopping it first", _AGAIN),
    143: _Cause((), "it was stopped (SIGTERM) from outside", _AGAIN),
    139: _Cause((), "it crashed (SIGSEGV)", "see its log: kit logs"),
}
_OWN_ERRORS: dict[int, type[KitError]] = {
    error.exit_code: error for error in (EnvironmentNotReady, IntegrityError, BudgetExceeded)
}


def explain(
    ended: Running,
    log: Sequence[str],
    lived: Lived | None = None,
    *,
    kills: Callable[[], tuple[Kill, ...] | Unavailable] = kernel_log.kills,
) -> KitError:
    """The error to raise for a server that has ended after writing ``log``.

    Where the kernel, torch or the log tell that memory ran out, it says which, when, and how much.
    Else, if the server said itself what was wrong (``error: …``, ``hint: …``), that is passed on,
    with its exit code 3, 4 or 5. Everything else is a ServiceError.

    Args:
        lived: what was seen of it before.
        kills: asks the kernel whom it killed.
    """
    death = Death(ended, log, lived or Lived(), _since(ended, kills()))
    if (error := out_of_memory(death)) is not None:
        return error
    exit_code = ended.exit_code
    said = _last(log, "error: ")
    if said is not None and exit_code != 0:
        kind = _OWN_ERRORS.get(exit_code, ServiceError) if isinstance(exit_code, int) else None
        hint = _last(log, "hint: ") or "see its log: kit logs"
        return (kind or ServiceError)(f"the server ended: {said}", hint=hint)
    cause = _cause(death)
    code = "" if isinstance(exit_code, Unavailable) else f" with exit code {exit_code}"
    return ServiceError(f"the server ended{code}{death.phase()}: {cause.what}", hint=cause.hint)


def _since(ended: Running, kills: tuple[Kill, ...] | Unavailable) -> tuple[Kill, ...] | Unavailable:
    """Those after its start: a process id may have been another's before."""
    if isinstance(kills, Unavailable):
        return kills
    start = ended.started_at - (time.time() - time.monotonic()) - _CLOCKS_DIFFER_SECONDS
    return tuple(kill for kill in kills if kill.seconds > start)


def refusal(failed: Failed) -> KitError:
    """The error to raise for a server that runs on and says why it cannot serve."""
    return _OWN_ERRORS.get(failed.exit_code, ServiceError)(failed.error, hint=failed.hint)


def _cause(death: Death) -> _Cause:
    text = "\n".join(death.log)
    for cause in _CAUSES:
        if any(mark in text for mark in cause.marks):
            return cause
    if says_no_memory(death):
        return _Cause((), f"host memory ran out{death.figures(Pool.HOST)}", f"free some; or {LESS}")
    exit_code = death.ended.exit_code
    if exit_code == SIGKILL:
        return _killed(death)
    if isinstance(exit_code, int) and exit_code in _SIGNALLED:
        return _SIGNALLED[exit_code]
    raised = [line for line in death.log if _EXCEPTION.match(line)]
    return _Cause((), raised[-1] if raised else "it did not say why", "see its log: kit logs")


def _killed(death: Death) -> _Cause:
    """SIGKILL, and nothing tells that the kernel did it."""
    if death.kills == ():
        what = "it was killed (SIGKILL) from outside; the kernel's log tells of no lack of memory"
        return _Cause((), what, _AGAIN)
    return _Cause(
        (),
        "it was killed (SIGKILL), most likely by the kernel because memory ran out"
        f"{death.figures(Pool.HOST)}",
        f"see `dmesg | grep -i 'out of memory'`; {LESS}",
    )


def _last(log: Sequence[str], prefix: str) -> str | None:
    return next(
        (line.removeprefix(prefix) for line in reversed(log) if line.startswith(prefix)), None
    )
