"""What `kit up` prints at its end: for people, and as JSON."""

import os
import shlex
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from kit.cli.render import print_record, to_json
from kit.memory.budget import Verdict
from kit.memory.unavailable import Unavailable
from kit.service.measured_run import UpReport
from kit.service.model import CONVERT, FETCH, SERVE, WEIGHTS_URL
from kit.settings import api_key_file
from kit.units import format_gib

if TYPE_CHECKING:
    from kit.service.measured_run import UpReport


_INDENT = "  "


def print_json(report: UpReport) -> None:
    """One JSON object; a figure that could not be had is null with its reason beside it."""
    verdicts = {
        verdict.pool.flag.removeprefix("--max-"): {
            "peak_bytes": None
            if isinstance(verdict.peak_bytes, Unavailable)
            else verdict.peak_bytes,
            "unavailable": getattr(verdict.peak_bytes, "reason", None),
            "budget_bytes": verdict.budget_bytes,
            "plan_bytes": report.plan.peak_bytes(verdict.pool),
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
        facts.append((verdict.pool.label, _peak(verdict, report)))
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
    planned = format_gib(report.plan.peak_bytes(verdict.pool))
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
