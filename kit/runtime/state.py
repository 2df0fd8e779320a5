"""The run state: which service was started. One JSON file that outlives `kit up`.

It is written before a container is made and after a process is: whatever ends `kit up` in between,
the same command goes on from there.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kit.files import writing
from kit.memory.probes.proc import PROC, process_stat
from kit.memory.unavailable import Unavailable
from kit.records import read_object
from kit.runtime.bounds import NO_BOUNDS, Bounds
from kit.runtime.protocol import ImageRef, RuntimeName, ServeSpec


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Replace the file at ``path``.

    Raises:
        EnvironmentNotReady: it cannot be written.
    """
    temporary = path.with_suffix(".tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="ascii")
        temporary.replace(path)


def spec_record(spec: ServeSpec) -> dict[str, Any]:
    """A spec as JSON can hold it; its path means the same bytes under every locale."""
    path = os.fsencode(spec.model_dir).decode("utf-8", "surrogateescape")
    return asdict(spec) | {"model_dir": path}


def read_spec(record: dict[str, Any]) -> ServeSpec:
    """The spec of such a record.

    Raises:
        KeyError, TypeError, AttributeError: it is none, or one of another version of the kit.
    """
    path = Path(os.fsdecode(record["model_dir"].encode("utf-8", "surrogateescape")))
    image = ImageRef(**record["image"]) if record.get("image") else None
    return ServeSpec(**(record | {"model_dir": path, "image": image}))


FILE_NAME = "service.json"
LOG_NAME = "service.log"
_VERSION = 2


@dataclass(frozen=True)
class Process:
    """A local process.

    ``pid``, ``start_ticks`` and ``boot_id`` together name one process for ever, so that another
    process which got the same pid later is never taken for it.

    Attributes:
        log_offset: where this run begins in the log file, in bytes.
        bounds: what the kernel holds it to.
    """

    pid: int
    start_ticks: int
    boot_id: str
    log_offset: int
    command: tuple[str, ...]
    bounds: Bounds = NO_BOUNDS


@dataclass(frozen=True)
class State:
    """The service that was started.

    Attributes:
        started_at: seconds since the epoch.
        process: of the local runtime.
        project: of Compose, that holds the container.
    """

    runtime: RuntimeName
    spec: ServeSpec
    started_at: float
    process: Process | None = None
    project: str | None = None


def write(path: Path, state: State) -> None:
    """Replace the file at ``path`` in one step; only its owner may read it.

    Raises:
        EnvironmentNotReady: it cannot be written.
    """
    spec = spec_record(state.spec)
    write_record(path, {"version": _VERSION, **asdict(state), "spec": spec})


def read(path: Path) -> State | None:
    """The state at ``path``; None when there is none, or none that this version understands."""
    try:
        record = read_object(path)
        if record.pop("version") != _VERSION:
            return None
        spec, process = read_spec(record.pop("spec")), record.pop("process")
        if process is not None:
            bounds = Bounds(**process.pop("bounds", {}))
            process = Process(**(process | {"command": tuple(process["command"])}), bounds=bounds)
        return State(spec=spec, process=process, **record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def boot_id(*, proc: Path = PROC) -> str:
    """The identity of the machine's present boot; empty where the kernel does not tell."""
    try:
        return (proc / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def is_alive(process: Process, *, proc: Path = PROC) -> bool:
    """Whether this very process still runs; a zombie does not."""
    stat = process_stat(process.pid, proc=proc)
    return (
        not isinstance(stat, Unavailable)
        and stat.start_ticks == process.start_ticks
        and process.boot_id == boot_id(proc=proc)
        and stat.state not in "ZX"
    )
