"""`kit memory assert`."""

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kit.cli import options as option
from kit.cli.options import Device, Engine, RuntimeChoice
from kit.cli.render import print_record
from kit.cli.wiring import wiring
from kit.memory.plan.line import Pool
from kit.records import read_object
from kit.settings import Settings
from kit.units import format_gib

if TYPE_CHECKING:
    from kit.service.assert_memory import AssertReport
    from kit.service.intent import UpOptions


_NOT_OF_THE_SERVICE = {"timeout", "preflight", "receipt", "keep", "as_json"}


def assert_(
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
    """Prove what the service takes: fill its context, check the peaks, write a receipt.

    Measures the service that runs, as it is; else starts one as kit up does, with the same
    options, and stops it afterwards. Exit code 5: a peak passed its budget, or could not be
    measured.
    """
    from kit.doctor.examine import before_start
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
        examine=before_start if preflight else None,
    )
    _assert(context, options, keep=keep, as_json=as_json)


def _assert(context: typer.Context, options: "UpOptions", *, keep: bool, as_json: bool) -> None:
    from kit.cli.render import Terminal
    from kit.memory.budget import require
    from kit.service.assert_memory import assert_service

    runtimes = wiring(context).runtimes(options.settings)
    with Terminal() as terminal:
        report = assert_service(
            options, runtimes, terminal, as_it_runs=not _chosen(context), keep=keep
        )
    (print_json if as_json else print_text)(report)
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


_OUTCOMES = {
    "held": ("held its memory budget", "bold green"),
    "breached": ("passed its memory budget", "bold red"),
    "unmeasured": ("could not be measured", "bold red"),
}


def print_json(report: "AssertReport") -> None:
    """The receipt, and where it and its pictures are."""
    print_record({"receipt": _record(report), "files": _files(report)})


def print_text(report: "AssertReport") -> None:
    """The receipt in a few lines."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, markup=False)
    record = _record(report)
    words, style = _OUTCOMES[record["outcome"]]
    console.print(Text.assemble("\n", (f"{record['model']['name']} {words}", style)))
    for label, text in _facts(record):
        console.print(f"  {label:<10}{text}", soft_wrap=True)
    for label, path in zip(("receipt", "picture", "page"), _files(report), strict=False):
        console.print(f"  {label:<10}{path}", soft_wrap=True)


def _files(report: "AssertReport") -> list[str]:
    return [str(path) for path in (report.receipt, *report.pictures)]


def _facts(record: dict[str, Any]) -> list[tuple[str, str]]:
    service, work = record["service"], record["work"]
    where = service["device"] + (" (simulated)" if record["machine"]["simulated"] else "")
    facts = [("model", f"{record['model']['dtype']} on {where}, {service['engine']} engine")]
    if work is None:
        facts.append(("work", "none: it did not come so far"))
    else:
        tokens = work["prompt_tokens"] + work["generated_tokens"]
        filled = f"full context, {work['sequences']} x {tokens} tokens, {work['seconds']:.1f} s"
        facts.append(("work", filled))
    for pool in (Pool.HOST, Pool.DEVICE):
        if (figures := record["pools"].get(pool.value)) is not None:
            facts += _pool(pool.label, figures)
    if "device" not in record["pools"]:
        facts.append(("VRAM", "none: no GPU in use"))
    return facts


def _pool(label: str, pool: dict[str, Any]) -> list[tuple[str, str]]:
    from kit.proof.explain import ratio_remark

    budget = format_gib(pool["budget_bytes"])
    if pool["peak_bytes"] is None:
        return [(label, f"could not be measured: {pool['unavailable']}; budget {budget}")]
    peak, planned = pool["peak_bytes"], pool["planned_bytes"]
    lines = [(label, f"peak {format_gib(peak)}, planned {format_gib(planned)}, budget {budget}")]
    if planned:
        lines.append(("", ratio_remark(peak, planned)))
    return lines


def _record(report: "AssertReport") -> dict[str, Any]:
    return read_object(report.receipt)
