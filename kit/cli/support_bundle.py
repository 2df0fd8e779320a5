"""`kit support-bundle`."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from kit.cli import up_options as option
from kit.cli.output import print_record, to_json
from kit.cli.wiring import wiring
from kit.units import KIB


def support_bundle(
    context: typer.Context,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", show_default="in this folder, by date"),
    ] = None,
    instance: Annotated[str | None, option.Instance] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
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
