"""`kit up`, and the offer to fetch the weights that it lacks."""

import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from kit.cli import options as option
from kit.cli.options import Device, Engine, RuntimeChoice
from kit.cli.render import print_record, to_json
from kit.cli.wiring import wiring
from kit.memory.budget import Verdict
from kit.memory.plan import Pool
from kit.memory.unavailable import Unavailable
from kit.service.measured_run import UpReport
from kit.service.model import CONVERT, FETCH, SERVE, WEIGHTS_URL
from kit.settings import Settings, api_key_file
from kit.units import format_gib

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
    context, and holds the peak of host RAM and VRAM against the budget. Run again, it changes
    nothing that already runs as asked.
    """
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
        preflight=preflight,
    )
    runtimes = wiring(context).runtimes(options.settings)
    if dry_run:
        from kit.cli.dry_run_report import show

        show(options, runtimes, as_json=as_json)
    else:
        _bring_up(options, runtimes, as_json=as_json)


def _bring_up(options: "UpOptions", runtimes: "Runtimes", *, as_json: bool) -> None:
    from kit.cli.render import Terminal
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


_INDENT = "  "


def print_json(report: UpReport) -> None:
    """One JSON object; a figure that could not be had is null with its reason beside it."""
    verdicts = {
        verdict.flag.removeprefix("--max-"): {
            "peak_bytes": None
            if isinstance(verdict.peak_bytes, Unavailable)
            else verdict.peak_bytes,
            "unavailable": getattr(verdict.peak_bytes, "reason", None),
            "budget_bytes": verdict.budget_bytes,
            "plan_bytes": report.plan.peak_bytes(_pool(verdict)),
            "passed": verdict.passed,
            "measured_by": verdict.measured_by,
        }
        for verdict in report.verdicts
    }
    record = {
        "url": report.url,
        "model": report.ready.model,
        "model_dir": str(report.model.directory),
        "demo": report.model.demo,
        "started": report.started,
        "where": report.where,
        "pid": None if isinstance(report.pid, Unavailable) else report.pid,
        "device": report.ready.device,
        "dtype": report.ready.dtype,
        "context_length": report.ready.context_length,
        "max_sequences": report.ready.max_sequences,
        "load_seconds": report.ready.load_seconds,
        "seconds": round(report.seconds, 3),
        "question": report.question,
        "answer": report.answer,
        "memory": verdicts,
        "work": asdict(report.work) if report.work else None,
        "skipped": report.skipped,
        "receipt": str(report.receipt) if report.receipt else None,
        "within_budget": report.within_budget,
        "stopped": not report.within_budget,
    }
    print_record(record)


def print_text(report: UpReport, *, introduce: bool = False) -> None:
    """The summary for people, 80 columns wide.

    Args:
        report: what to tell.
        introduce: say also how to use the service, to those who may see it for the first time.
    """
    console = Console(highlight=False, markup=False)
    state = "is up" if report.within_budget else f"was stopped: {report.failure}"
    console.print(Text.assemble("\n", (f"{report.ready.model} {state}", "bold")), soft_wrap=True)
    for label, value in _facts(report):
        console.print(f"{_INDENT}{label:<10}{value}", soft_wrap=True)
    if not report.within_budget:
        return
    _print_conversation(console, report)
    if not introduce:
        return
    if report.model.demo:
        console.print(_DEMO_NOTE, soft_wrap=True)
    console.print("\nTry it:", soft_wrap=True)
    console.print(_curl(report), soft_wrap=True)
    console.print(f"\nStop it with: kit down{_where_kit_is()}", soft_wrap=True)


def _where_kit_is() -> str:
    """What ``kit`` means in the printed commands, where the shell would not find it."""
    program = Path(sys.argv[0])
    if shutil.which("kit") or program.name != "kit":
        return ""
    return f"   (kit is {os.path.relpath(program)} here)"


def _facts(report: UpReport) -> list[tuple[str, str]]:
    ready = report.ready
    facts = [
        ("url", report.url),
        (
            "model",
            f"{ready.dtype} on {ready.device}, {ready.context_length} tokens of context, "
            f"{ready.max_sequences} at once",
        ),
        ("runs in" if report.within_budget else "ran in", report.where),
        ("load", f"{ready.load_seconds:.1f} s ({report.seconds:.1f} s for this command)"),
    ]
    for verdict in report.verdicts:
        facts.append((verdict.what, _peak(verdict, report)))
        if verdict.measured_by == "torch":
            facts.append(("", "of it torch's pool is measured, the CUDA context assumed"))
    if ready.device == "cpu":
        facts.append(("VRAM", "none: no GPU in use"))
    if report.receipt is not None:
        facts.append(("held at", _work(report)))
        facts.append(("receipt", str(report.receipt)))
    return facts


def _work(report: UpReport) -> str:
    """What the service had done when its peaks were measured."""
    if report.work is None:
        return f"one answer; its context was not filled: {report.skipped}"
    tokens = report.work.prompt_tokens + report.work.generated_tokens
    return f"full context: {report.work.sequences} x {tokens} tokens, {report.work.seconds:.1f} s"


def _peak(verdict: Verdict, report: UpReport) -> str:
    if isinstance(verdict.peak_bytes, Unavailable):
        return f"could not be measured: {verdict.peak_bytes.reason}"
    planned = format_gib(report.plan.peak_bytes(_pool(verdict)))
    budget = format_gib(verdict.budget_bytes)
    return f"peak {format_gib(verdict.peak_bytes)}, planned {planned}, budget {budget}"


def _print_conversation(console: Console, report: UpReport) -> None:
    if report.answer is None:
        console.print(f"\n{_INDENT}It is busy with other requests, so it was not asked anything.")
        return
    console.print(f"\n{_INDENT}> {report.question}", soft_wrap=True)
    width = min(console.width, 80) - len(_INDENT)
    for line in Text(report.answer.strip()).wrap(console, width):
        console.print(f"{_INDENT}{line}", soft_wrap=True, style="green")


def _curl(report: UpReport) -> str:
    model = to_json(report.ready.model)
    message = to_json({"role": "user", "content": report.question})
    body = f'{{"model": {model},\n         "messages": [{message}]}}'
    proxied = any(os.environ.get(name) for name in ("http_proxy", "all_proxy", "ALL_PROXY"))
    curl = "curl --noproxy '*'" if proxied else "curl"  # a proxy does not reach this machine
    url = shlex.quote(f"{report.url}/chat/completions")  # zsh takes brackets of IPv6 for a pattern
    lines = [f"{curl} {url}", "-H 'Content-Type: application/json'"]
    if report.spec.api_key_digest:
        file = api_key_file(os.environ)
        key = "$KIT_API_KEY" if file is None else f"$(cat {shlex.quote(str(file))})"
        lines.append(f'-H "Authorization: Bearer {key}"')
    lines.append(f"-d {shlex.quote(body)}")
    return " \\\n    ".join(lines).join((_INDENT, ""))


def _pool(verdict: Verdict) -> Pool:
    return Pool.DEVICE if verdict.what == "VRAM" else Pool.HOST


_DEMO_NOTE = f"""
This is the built-in demo, a tiny model that only knows this kit. For the real
iFlytekSpark-13B (about 53 GB):
  {FETCH}
which ends with the kit up line to run. By hand, get the files from
  {WEIGHTS_URL}
then:
  {CONVERT}
  {SERVE}
They are free for non-commercial use; commercial use needs written contact with
iFlytek: see LICENSE_MODEL.md in its repository iFlytekSpark-13B."""
