"""`kit up`, and the offer to fetch the weights that it lacks."""

import contextlib
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from kit.cli import options as option
from kit.cli.options import Device, Engine, RuntimeChoice
from kit.cli.wiring import wiring
from kit.settings import Settings

if TYPE_CHECKING:
    from kit.cli.render import Terminal
    from kit.runtime.protocol import Runtime, RuntimeName
    from kit.service.change import Runtimes
    from kit.service.intent import UpOptions
    from kit.service.measured_run import UpReport


def up(
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
    exercise: Annotated[bool, option.Exercise] = True,
    instance: Annotated[str | None, option.Instance] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would run, and change nothing.")
    ] = False,
    as_json: Annotated[bool, option.Json] = False,
) -> None:
    """Serve a model inside a measured memory budget.

    Starts an OpenAI-compatible server, waits until it is ready, asks one question, fills its
    context, and compares the peaks of host RAM and VRAM with the budget. Run again, it changes
    nothing that already runs as asked.
    """
    from kit.doctor.examine import before_start
    from kit.proof.assertion import Proof

    options = option.options_of(
        replace(Settings.from_environ(), host=host, port=port),
        max_ram,
        max_vram,
        Proof(exercise=exercise),
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
    runtimes = wiring(context).runtimes(options.settings)
    if dry_run:
        from kit.cli.dry_run_report import show

        show(options, runtimes, as_json=as_json)
    else:
        _bring_up(options, runtimes, as_json=as_json)


def _bring_up(options: "UpOptions", runtimes: "Runtimes", *, as_json: bool) -> None:
    from kit.cli.render import Terminal
    from kit.cli.up_report import print_json, print_text
    from kit.memory.budget import require

    with Terminal() as terminal:
        report = up_or_offer(options, runtimes, terminal)
    if as_json:
        print_json(report)
    else:
        print_text(report, introduce=True)
    require(report.verdicts)


def up_or_offer(
    options: "UpOptions", runtimes: "Mapping[RuntimeName, Runtime]", terminal: "Terminal"
) -> "UpReport":
    """`kit up`; where it lacks the weights, they are shown, and on a terminal fetched on request.

    Raises:
        WeightsMissing: nobody could be asked, or said no.
    """
    from kit.service.bring_up import up as bring_up
    from kit.service.missing_weights import WeightsMissing, lines_of, look_for

    try:
        return bring_up(options, runtimes, terminal)
    except WeightsMissing as error:
        terminal.say("")
        for line in lines_of(look_for(options.settings), convert=error.convert):
            terminal.say(line)
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        terminal.pause()
        if not typer.confirm("\nFetch them now?", default=False, err=True):
            raise
        _fetch(convert=error.convert)
        return bring_up(options, runtimes, terminal)


def _fetch(*, convert: bool) -> None:
    """As `kit weights fetch` does it: the licence is shown and asked for, then all is checked."""
    from kit.cli.weights.fetch import fetch
    from kit.service.missing_weights import WEIGHTS

    mirror = os.environ.get("KIT_WEIGHTS_MIRROR") or None
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the report
        fetch(WEIGHTS, mirror=mirror, convert=convert)
