"""`kit memory assert`."""

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kit.cli import up_options as option
from kit.cli.up_options import Device, Engine, RuntimeChoice
from kit.cli.wiring import wiring
from kit.settings import Settings

if TYPE_CHECKING:
    from kit.service.intent import UpOptions

_NOT_OF_THE_SERVICE = {"timeout", "preflight", "receipt", "keep", "as_json"}


def hold(
    context: typer.Context,
    model: Annotated[str | None, option.Model] = None,
    name: Annotated[str | None, option.Name] = None,
    context_length: Annotated[int | None, option.Context] = None,
    max_sequences: Annotated[int | None, option.MaxSequences] = None,
    device: Annotated[Device, option.DeviceOption] = Device.AUTO,
    engine: Annotated[Engine, option.EngineOption] = Engine.NATIVE,
    host: Annotated[str, option.Host] = Settings.host,
    port: Annotated[int, option.Port] = Settings.port,
    max_ram: Annotated[str | None, option.MaxRam] = None,
    max_vram: Annotated[str, option.MaxVram] = "30GiB",
    runtime: Annotated[RuntimeChoice, option.Runtime] = RuntimeChoice.AUTO,
    image: Annotated[str | None, option.Image] = None,
    timeout: Annotated[float, option.Timeout] = 600,
    preflight: Annotated[bool, option.Preflight] = True,
    receipt: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where the receipt is written; timeline and pictures go beside it.",
            show_default="below the state folder",
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Let the service run that was started for this.")
    ] = False,
    instance: Annotated[str | None, option.Instance] = None,
    as_json: Annotated[bool, option.Json] = False,
) -> None:
    """Prove what the service takes: fill its context, hold the peaks, write a receipt.

    Measures the service that runs, as it is; else starts one as kit up does, with the same
    options, and stops it afterwards. Exit code 5: a peak passed its budget, or could not be
    measured.
    """
    from kit.proof.assertion import Proof

    options = option.options_of(
        replace(Settings.from_environ(), host=host, port=port),
        max_ram,
        max_vram,
        Proof(limit_seconds=math.inf, receipt=receipt and receipt.expanduser().absolute()),
        model=model,
        name=name,
        context=context_length,
        max_sequences=max_sequences,
        device=device,
        engine=engine,
        runtime=runtime,
        image=image,
        timeout_seconds=timeout,
        preflight=preflight,
    )
    _hold(context, options, keep=keep, as_json=as_json)


def _hold(context: typer.Context, options: "UpOptions", *, keep: bool, as_json: bool) -> None:
    from kit.cli.memory import hold_report
    from kit.cli.terminal import Terminal
    from kit.memory.budget import require
    from kit.service.assert_memory import hold_service

    runtimes = wiring(context).runtimes(options.settings)
    with Terminal() as terminal:
        report = hold_service(
            options, runtimes, terminal, as_it_runs=not _chosen(context), keep=keep
        )
    (hold_report.print_json if as_json else hold_report.print_text)(report)
    if report.breach is not None:
        raise report.breach
    if report.report is not None:
        require(report.report.verdicts)


def _chosen(context: typer.Context) -> bool:
    """Whether an option on the command line says what the service is to be."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return any(
        source is not None and source.name == "COMMANDLINE"
        for name, source in sources.items()
        if name not in _NOT_OF_THE_SERVICE
    )
