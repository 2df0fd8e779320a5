"""Why a server ended: from its exit code and the last lines it wrote."""

from collections.abc import Sequence
from dataclasses import dataclass

from kit.errors import EnvironmentNotReady, IntegrityError, KitError, ServiceError
from kit.memory.unavailable import Unavailable


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
        ("No module named 'torch'", "No module named 'fastapi'", "No module named 'transformers'"),
        "the packages that serving needs are not installed",
        "install them: pip install 'spark-kit[native]'",
    ),
)
_SIGNALLED = {
    137: _Cause(
        (),
        "it was killed (SIGKILL), most likely by the kernel because memory ran out",
        f"see `dmesg | grep -i 'out of memory'`; {_LESS}",
    ),
    143: _Cause((), "it was stopped (SIGTERM) from outside", "start it again: kit up"),
    139: _Cause((), "it crashed (SIGSEGV)", "see its log: kit logs"),
}
_OWN_ERRORS: dict[int, type[KitError]] = {3: EnvironmentNotReady, 4: IntegrityError}


def explain(exit_code: int | Unavailable, log: Sequence[str]) -> KitError:
    """The error to raise for a server that ended with ``exit_code`` after writing ``log``.

    If the server said itself what was wrong (``error: …``, ``hint: …``), that is passed on, with
    its exit code 3 or 4; everything else is a ServiceError.
    """
    said = _last(log, "error: ")
    if said is not None and exit_code != 0:
        kind = _OWN_ERRORS.get(exit_code, ServiceError) if isinstance(exit_code, int) else None
        hint = _last(log, "hint: ") or "see its log: kit logs"
        return (kind or ServiceError)(f"the server ended: {said}", hint=hint)
    cause = _cause(exit_code, log)
    code = "" if isinstance(exit_code, Unavailable) else f" with exit code {exit_code}"
    return ServiceError(f"the server ended{code}: {cause.what}", hint=cause.hint)


def _cause(exit_code: int | Unavailable, log: Sequence[str]) -> _Cause:
    text = "\n".join(log)
    for cause in _CAUSES:
        if any(mark in text for mark in cause.marks):
            return cause
    if isinstance(exit_code, int) and exit_code in _SIGNALLED:
        return _SIGNALLED[exit_code]
    return _Cause((), "it did not say why", "see its log: kit logs")


def _last(log: Sequence[str], prefix: str) -> str | None:
    return next(
        (line.removeprefix(prefix) for line in reversed(log) if line.startswith(prefix)), None
    )
