"""`kit down`, `kit status`, `kit logs` and `kit health`."""

from typing import Annotated, Any

import typer

from kit.cli.output import print_record
from kit.cli.wiring import wiring
from kit.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def down(context: typer.Context, as_json: Json = False) -> None:
    """Stop the service; it may finish running requests first. Nothing running is fine too.

    Exit code 1: nothing was stopped, but a server of the kit listens on the port.
    """
    from kit.stack.stray import stray_server

    settings = Settings.from_environ()
    if wiring(context).local_runtime(settings).stop():
        _print(as_json, {"stopped": True}, "stopped")
    elif stray := stray_server(settings.port):
        _print(as_json, {"stopped": False, "stray_pid": stray.pid}, f"not stopped: {stray.text}")
        raise typer.Exit(1)
    else:
        _print(as_json, {"stopped": False}, "nothing was running")


def status(context: typer.Context, as_json: Json = False) -> None:
    """Show what runs. Exit code 0: ready; 1: nothing runs; 6: it should run and is not ready."""
    from kit.stack.service import base_url
    from kit.stack.status import status as inspect

    settings = Settings.from_environ()
    runtime = wiring(context).local_runtime(settings)
    found = inspect(runtime, settings.port)
    record: dict[str, Any] = {"state": found.state, "detail": found.detail}
    text = found.detail
    if found.running is not None:
        spec = found.running.spec
        record |= {
            "model": spec.name,
            "model_dir": str(spec.model_dir),
            "url": base_url(spec.host, spec.port) + "/v1",
            "pid": found.running.pid,
            "started_at": found.running.started_at,
            "log": str(runtime.log_file),
        }
        text += f"\n  model    {spec.name} ({spec.model_dir})"
        text += f"\n  process  {found.running.pid}\n  log      {runtime.log_file}"
    _print(as_json, record, text)
    raise typer.Exit(found.exit_code)


def logs(
    context: typer.Context,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")
    ] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the service ends or Ctrl-C.")
    ] = False,
) -> None:
    """Print the server's log."""
    runtime = wiring(context).local_runtime(Settings.from_environ())
    for line in runtime.logs(lines, follow=follow):
        print(line, flush=follow)


def health(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(envvar="KIT_HOST", help="Address to ask.")] = None,
    port: Annotated[
        int | None, typer.Option(envvar="KIT_PORT", min=1, max=65535, help="Port to ask.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask the server whether it is ready: exit code 0 if it is, else 6.

    Without --host and --port it asks the service that `kit up` started, wherever it listens.
    """
    from kit.stack.service import base_url
    from kit.stack.status import health as probe

    settings = Settings.from_environ()
    running = wiring(context).local_runtime(settings).status()
    started = running.spec if running else settings
    found = probe(base_url(host or started.host, port or started.port))
    _print(as_json, {"state": found.state, "detail": found.detail}, found.detail)
    raise typer.Exit(0 if found.state == "ready" else 6)


def _print(as_json: bool, record: dict[str, Any], text: str) -> None:
    if as_json:
        print_record(record)
    else:
        print(text)
