"""The run state of the local service: one JSON file, written atomically, that outlives `kit up`."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kit.memory.proc import PROC, process_stat
from kit.memory.unavailable import Unavailable
from kit.stack.runtime import ServeSpec
from kit.stack.writing import writing

_VERSION = 1


@dataclass(frozen=True)
class State:
    """The service that was started.

    ``pid``, ``start_ticks`` and ``boot_id`` together name one process for ever, so that another
    process which got the same pid later is never taken for it.

    Attributes:
        started_at: seconds since the epoch.
        log_offset: where this run begins in the log file, in bytes.
    """

    spec: ServeSpec
    pid: int
    start_ticks: int
    boot_id: str
    started_at: float
    log_offset: int
    command: tuple[str, ...]


def write(path: Path, state: State) -> None:
    """Replace the file at ``path`` in one step; only its owner may read it.

    Raises:
        EnvironmentNotReady: it cannot be written.
    """
    record = {"version": _VERSION, **asdict(state)}
    record["spec"]["model_dir"] = _text(state.spec.model_dir)
    temporary = path.with_suffix(".tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="ascii")
        temporary.replace(path)


def read(path: Path) -> State | None:
    """The state at ``path``; None when there is none, or none that this version understands."""
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
        if record.pop("version") != _VERSION:
            return None
        spec = record.pop("spec")
        spec["model_dir"] = _path(spec["model_dir"])
        record["command"] = tuple(record["command"])
        return State(spec=ServeSpec(**spec), **record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _text(path: Path) -> str:
    """``path`` as text that means the same bytes under every locale."""
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def _path(text: str) -> Path:
    return Path(os.fsdecode(text.encode("utf-8", "surrogateescape")))


def boot_id(*, proc: Path = PROC) -> str:
    """The identity of the machine's present boot; empty where the kernel does not tell."""
    try:
        return (proc / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def is_alive(state: State, *, proc: Path = PROC) -> bool:
    """Whether the very process of ``state`` still runs; a zombie does not."""
    stat = process_stat(state.pid, proc=proc)
    return (
        not isinstance(stat, Unavailable)
        and stat.start_ticks == state.start_ticks
        and state.boot_id == boot_id(proc=proc)
        and stat.state not in "ZX"
    )
