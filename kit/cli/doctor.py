"""`kit doctor` and `kit support-bundle`."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kit.cli import options as option
from kit.cli.options import Device, Engine
from kit.cli.render import print_record, to_json
from kit.cli.wiring import wiring
from kit.units import KIB

if TYPE_CHECKING:
    from kit.doctor.examine import Report
    from kit.doctor.request import Request


_Strict = typer.Option("--strict", help="Exit code 1 for warnings, too.")
_List = typer.Option("--list-checks", help="Show what is checked, and check nothing.")
_Skip = typer.Option(metavar="ID", help="Leave out this check, or this area; may be repeated.")
_Offline = typer.Option("--offline", help="Leave the network alone.")


def doctor(
    context: typer.Context,
    model: Annotated[str | None, option.Model] = None,
    context_length: Annotated[int | None, option.Context] = None,
    max_sequences: Annotated[int | None, option.MaxSequences] = None,
    device: Annotated[Device, option.DeviceOption] = Device.AUTO,
    engine: Annotated[Engine, option.EngineOption] = Engine.NATIVE,
    instance: Annotated[str | None, option.Instance] = None,
    offline: Annotated[bool, _Offline] = False,
    skip: Annotated[list[str] | None, _Skip] = None,
    strict: Annotated[bool, _Strict] = False,
    list_checks: Annotated[bool, _List] = False,
    as_json: Annotated[bool, option.Json] = False,
) -> None:
    """Look at this machine and say what would stop the kit, with evidence and remedy.

    Changes nothing. Where a GPU and Docker are, one container is started to see whether it gets
    the GPU. Exit code 0: nothing fails; 1: something does.
    """
    from kit.cli.doctor_report import print_checks, print_json, print_text
    from kit.doctor.examine import chosen
    from kit.doctor.request import Request, Wanted, read_settings

    if list_checks:
        print_checks(as_json)
        return
    settings, problem = read_settings(os.environ)
    request = Request(
        settings,
        wanted=Wanted(model, engine.value, context_length, max_sequences, device.value),
        offline=offline,
        runtimes=wiring(context).runtimes(settings),
        settings_problem=problem,
    )
    report = _examine(request, chosen(skip or ()))
    (print_json if as_json else print_text)(report)
    raise typer.Exit(report.exit_code(strict=strict))


def _examine(request: "Request", skip: frozenset[str]) -> "Report":
    """On a terminal, with a line that says what is still waited for."""

    from rich.console import Console

    from kit.doctor.examine import examine

    console = Console(stderr=True)
    if not console.is_interactive:
        return examine(request, skip=skip)
    with console.status("looking at this machine") as status:
        return examine(
            request,
            skip=skip,
            watch=lambda waiting: status.update(f"looking at {', '.join(sorted(waiting))}"),
        )


def support_bundle(
    context: typer.Context,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", show_default="in this folder, by date"),
    ] = None,
    instance: Annotated[str | None, option.Instance] = None,
    as_json: Annotated[bool, option.Json] = False,
) -> None:
    """Pack what helps to find a fault: versions, findings, status, logs, plan, configuration.

    Keys, tokens, addresses, and names of users and machines are taken out; look into it before
    you send it. Only you can read the file. Nothing is sent anywhere.
    """
    from kit.cli.doctor_report import as_record
    from kit.doctor.examine import examine
    from kit.doctor.request import Request, read_settings
    from kit.service.support_bundle import parts_of, write_bundle

    settings, problem = read_settings(os.environ)
    runtimes = wiring(context).runtimes(settings)
    request = Request(settings, offline=True, runtimes=runtimes, settings_problem=problem)
    parts = parts_of(settings, runtimes, os.environ)
    parts["doctor.json"] = lambda: to_json(as_record(examine(request)), indent=2)
    path = output or Path(f"spark-kit-support-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz")
    sizes = write_bundle(path, parts)
    if as_json:
        print_record({"path": str(path), "files": sizes})
        return
    print(f"{path} holds")
    for name, size in sizes.items():
        print(f"  {size / KIB:>8.1f} KiB  {name}")
    print("Keys, tokens, addresses and names were taken out. Look into it before you send it.")
