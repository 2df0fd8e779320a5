"""Why a server ended: from its exit code, what the kernel did, and the last lines it wrote."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kit.errors import BudgetExceeded, EnvironmentNotReady, IntegrityError, KitError, ServiceError
from kit.memory.unavailable import Unavailable
from kit.stack.runtime import Running
from kit.stack.service import Failed
from kit.units import format_gib


@dataclass(frozen=True)
class _Cause:
    """If one of ``marks`` stands in the log, this is what happened."""

    marks: tuple[str, ...]
    what: str
    hint: str


_LESS = "ask for less memory with --context and --max-sequences, or free some"
_CAUSES = (
    _Cause(("CUDA out of memory", "torch.OutOfMemoryError"), "the GPU's memory ran out", _LESS),
    _Cause(
        ("MemoryError", "Cannot allocate memory", "can't allocate memory", "std::bad_alloc"),
        "host memory ran out",
        f"{_LESS}; look at ulimit -v",
    ),
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
        "install them: pip install 'spark-kit[native]'",
    ),
)
_EXCEPTION = re.compile(r"[A-Za-z_.]+(Error|Exception): .")
_SIGNALLED = {
    137: _Cause(
        (),
        "it was killed (SIGKILL), most likely by the kernel because memory ran out",
        f"see `dmesg | grep -i 'out of memory'`; {_LESS}",
    ),
    143: _Cause((), "it was stopped (SIGTERM) from outside", "start it again: kit up"),
    139: _Cause((), "it crashed (SIGSEGV)", "see its log: kit logs"),
}
_OWN_ERRORS: dict[int, type[KitError]] = {
    error.exit_code: error for error in (EnvironmentNotReady, IntegrityError, BudgetExceeded)
}


def explain(ended: Running, log: Sequence[str]) -> KitError:
    """The error to raise for a server that has ended after writing ``log``.

    If the server said itself what was wrong (``error: …``, ``hint: …``), that is passed on, with
    its exit code 3, 4 or 5. One that the kernel killed at its container's memory limit has passed
    its budget of host RAM. Everything else is a ServiceError.
    """
    exit_code = ended.exit_code
    if ended.out_of_memory:
        return _killed_at_limit(ended)
    said = _last(log, "error: ")
    if said is not None and exit_code != 0:
        kind = _OWN_ERRORS.get(exit_code, ServiceError) if isinstance(exit_code, int) else None
        hint = _last(log, "hint: ") or "see its log: kit logs"
        return (kind or ServiceError)(f"the server ended: {said}", hint=hint)
    cause = _cause(exit_code, log)
    code = "" if isinstance(exit_code, Unavailable) else f" with exit code {exit_code}"
    return ServiceError(f"the server ended{code}: {cause.what}", hint=cause.hint)


def refusal(failed: Failed) -> KitError:
    """The error to raise for a server that runs on and says why it cannot serve."""
    return _OWN_ERRORS.get(failed.exit_code, ServiceError)(failed.error, hint=failed.hint)


def _killed_at_limit(ended: Running) -> KitError:
    limit = ended.spec.max_ram_bytes
    size = f" of {format_gib(limit)}" if limit else ""
    code = "" if isinstance(ended.exit_code, Unavailable) else f" (exit code {ended.exit_code})"
    return BudgetExceeded(
        f"the kernel killed the server{code}: it reached its container's memory limit{size}, "
        "which is the budget of host RAM",
        hint="ask for less (--context, --max-sequences), or allow more with --max-ram",
    )


def _cause(exit_code: int | Unavailable, log: Sequence[str]) -> _Cause:
    text = "\n".join(log)
    for cause in _CAUSES:
        if any(mark in text for mark in cause.marks):
            return cause
    if isinstance(exit_code, int) and exit_code in _SIGNALLED:
        return _SIGNALLED[exit_code]
    raised = [line for line in log if _EXCEPTION.match(line)]
    return _Cause((), raised[-1] if raised else "it did not say why", "see its log: kit logs")


def _last(log: Sequence[str], prefix: str) -> str | None:
    return next(
        (line.removeprefix(prefix) for line in reversed(log) if line.startswith(prefix)), None
    )
