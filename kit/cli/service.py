"""`kit down`, `kit status`, `kit logs` and `kit health`."""

import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kit.cli import options as option
from kit.cli.render import print_record
from kit.cli.wiring import wiring
from kit.settings import Settings

if TYPE_CHECKING:
    from kit.memory.unavailable import Unavailable
    from kit.runtime.protocol import Details, Running, Runtime


def down(
    context: typer.Context,
    instance: Annotated[str | None, option.Instance] = None,
    as_json: Annotated[bool, option.Json] = False,
) -> None:
    """Stop the service; it may finish running requests first. Nothing running is fine too.

    Exit code 1: nothing was stopped, but a server of the kit listens on the port.
    """
    from kit.runtime.protocol import find_orphan

    settings = Settings.from_environ()
    if wiring(context).runtime(settings).stop():
        _print(as_json, {"stopped": True}, "stopped")
    elif orphan := find_orphan(wiring(context).runtimes(settings), settings.port):
        record = {"stopped": False, "stray": orphan.where, "stray_pid": orphan.pid}
        _print(as_json, record, f"not stopped: {orphan.text}")
        raise typer.Exit(1)
    else:
        _print(as_json, {"stopped": False}, "nothing was running")


def status(
    context: typer.Context,
    instance: Annotated[str | None, option.Instance] = None,
    as_json: Annotated[bool, option.Json] = False,
) -> None:
    """Show what runs. Exit code 0: ready; 1: nothing runs; 6: it should run and is not ready."""
    from kit.runtime.protocol import Service, find_orphan
    from kit.service.status import details
    from kit.service.status import status as inspect

    settings = Settings.from_environ()
    runtimes, runtime = wiring(context).runtimes(settings), wiring(context).runtime(settings)
    found = inspect(runtime, settings.port)
    if found.running is None and (orphan := find_orphan(runtimes, settings.port)):
        found = replace(found, detail=orphan.text)
    record: dict[str, Any] = {"state": found.state, "detail": found.detail}
    lines = [found.detail]
    if found.running is not None:
        more = details(Service(runtime, found.running))
        record |= _record(runtime, found.running, more)
        lines += [f"  {name:<9}{text}" for name, text in _facts(runtime, found.running, more)]
    _print(as_json, record, "\n".join(lines))
    raise typer.Exit(found.exit_code)


def logs(
    context: typer.Context,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, metavar="N", help="How many of the last lines.")
    ] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the service ends or Ctrl-C.")
    ] = False,
    instance: Annotated[str | None, option.Instance] = None,
) -> None:
    """Print the server's log."""
    from kit.runtime import state

    settings = Settings.from_environ()
    runtime, empty = wiring(context).runtime(settings), True
    for line in runtime.logs(lines, follow=follow):
        print(line, flush=follow)
        empty = False
    if empty and lines:
        started = state.read(settings.state_dir / state.FILE_NAME) or runtime.log_file.exists()
        print("the log is empty" if started else "no log: nothing was started", file=sys.stderr)


def health(
    context: typer.Context,
    host: Annotated[
        str | None, typer.Option(envvar="KIT_HOST", metavar="ADDRESS", help="Address to ask.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(envvar="KIT_PORT", min=1, max=65535, metavar="PORT", help="Port to ask."),
    ] = None,
    instance: Annotated[str | None, option.Instance] = None,
    as_json: Annotated[bool, option.Json] = False,
) -> None:
    """Ask the server whether it is ready: exit code 0 if it is, else 6.

    Without --host and --port it asks the service that `kit up` started, wherever it listens.
    """
    from kit.runtime import state
    from kit.runtime.client import base_url
    from kit.service.status import health as probe

    settings = Settings.from_environ()
    running = state.read(settings.state_dir / state.FILE_NAME)
    started = running.spec if running else settings
    found = probe(base_url(host or started.host, port or started.port))
    _print(as_json, {"state": found.state, "detail": found.detail}, found.detail)
    raise typer.Exit(0 if found.state == "ready" else 6)


def _record(runtime: "Runtime", running: "Running", more: "Details | None") -> dict[str, Any]:
    from kit.memory.unavailable import Unavailable
    from kit.runtime.client import base_url

    def known(value: "int | Unavailable | None") -> int | None:
        return None if isinstance(value, Unavailable) else value

    record = {
        "runtime": runtime.name,
        "model": running.spec.name,
        "model_dir": str(running.spec.model_dir),
        "engine": running.spec.engine,
        "url": base_url(running.spec.host, running.spec.port) + "/v1",
        "where": running.where,
        "pid": known(running.pid),
        "started_at": running.started_at,
        "log": str(runtime.log_file) if runtime.name == "local" else None,
    }
    if more is not None:
        memory = more.memory
        record |= asdict(more) | {
            "memory": {
                "used_bytes": known(memory.used_bytes),
                "peak_bytes": known(memory.peak_bytes),
                "limit_bytes": memory.limit_bytes,
            }
        }
    return record


def _facts(runtime: "Runtime", running: "Running", more: "Details | None") -> list[tuple[str, str]]:
    engine = "" if running.spec.engine == "native" else f", engine {running.spec.engine}"
    facts = [("model", f"{running.spec.name} ({running.spec.model_dir}){engine}")]
    if more is None:
        facts.append(("was in", running.where))
    else:
        again = f", started again {more.restarts} times" if more.restarts else ""
        facts.append(("runs in", f"{running.where}, up {_duration(more.uptime_seconds)}{again}"))
        if more.image is not None:
            facts.append(("image", more.image))
            facts.append(("digest", more.digest or "unknown"))
            facts.append(("rewrites", more.rewrites or "the image does not say"))
            facts.append(("health", f"{more.health} (the engine's own check)"))
        facts.append(("memory", _memory(more)))
    facts.append(("log", str(runtime.log_file) if runtime.name == "local" else "kit logs"))
    return facts


def _memory(more: "Details") -> str:
    from kit.memory.unavailable import Unavailable
    from kit.units import format_gib

    def text(value: "int | Unavailable") -> str:
        return "unknown" if isinstance(value, Unavailable) else format_gib(value)

    memory = more.memory
    limit = f", limit {format_gib(memory.limit_bytes)}" if memory.limit_bytes else ""
    return f"{text(memory.used_bytes)} now, {text(memory.peak_bytes)} at its peak{limit}"


def _duration(seconds: float) -> str:
    minutes = int(seconds) // 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    days, hours = divmod(minutes // 60, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes % 60:02} min"


def _print(as_json: bool, record: dict[str, Any], text: str) -> None:
    if as_json:
        print_record(record)
    else:
        print(text)
