"""`kit doctor` and `kit support-bundle`."""

import os
import textwrap
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

import kit
from kit.cli import options as option
from kit.cli.options import Device, Engine
from kit.cli.render import print_record, to_json
from kit.cli.wiring import wiring
from kit.doctor.check import Result
from kit.doctor.examine import Report
from kit.doctor.finding import Status
from kit.doctor.registry import CHECKS
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


# What a terminal has where nobody made it wider; longer lines read worse.
_WIDTH = 80
_NARROW = 60
"""Columns. Below it what was found gets a line of its own, not what the ids leave of one."""
_WORDS = {
    Status.PASS: ("pass", "green"),
    Status.WARN: ("WARN", "bold yellow"),
    Status.FAIL: ("FAIL", "bold red"),
    Status.SKIP: ("skip", "dim"),
    Status.ERROR: ("ERROR", "bold magenta"),
}
_STATUS = max(len(word) for word, _ in _WORDS.values())
_ID = max(len(check.id) for check in CHECKS)
_LABEL = len("expected")
_PROBLEMS = (Status.ERROR, Status.WARN, Status.FAIL)  # the worst is read last, above the prompt


def print_text(report: Report) -> None:
    """A line for each check that ran, then each problem with evidence and remedy, then counts."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    blocked: dict[str, list[str]] = {}
    for result in report.results:
        if result.cause is None:
            _print_line(console, result.finding.status, result.check.id, result.finding.summary)
        else:
            blocked.setdefault(result.cause, []).append(result.check.id)
    for cause, names in blocked.items():
        _print_line(console, Status.SKIP, f"needs {cause}", ", ".join(names))
    for status in _PROBLEMS:
        for result in report.results:
            if result.finding.status is status:
                _print_problem(console, result)
    console.print(f"\n{counted(report)}")


def print_json(report: Report) -> None:
    """One JSON object."""
    print_record(as_record(report))


def as_record(report: Report) -> dict[str, Any]:
    """The report as JSON. ``version`` rises when something in it changes its meaning."""
    return {
        "version": 1,
        "kit": kit.__version__,
        "status": report.worst.value,
        "counts": {status.value: report.counts[status] for status in Status},
        "findings": [_finding(result) for result in report.results],
    }


def print_checks(as_json: bool) -> None:
    """What `--list-checks` shows: id, what is checked, what that requires."""
    if as_json:
        checks = [
            {"id": each.id, "title": each.title, "requires": list(each.requires)} for each in CHECKS
        ]
        print_record({"version": 1, "checks": checks})
        return
    for each in CHECKS:
        needs = f" (needs {', '.join(each.requires)})" if each.requires else ""
        lines = _wrapped(each.title + needs, _WIDTH - _ID - 2)
        print(f"{each.id:<{_ID}}  " + f"\n{' ' * (_ID + 2)}".join(lines))


def counted(report: Report) -> str:
    """``30 passed, 2 warnings, 1 failure, 12 skipped``."""
    counts = report.counts
    parts = [
        f"{counts[Status.PASS]} passed",
        _many(counts[Status.WARN], "warning"),
        _many(counts[Status.FAIL], "failure"),
        f"{counts[Status.SKIP]} skipped",
    ]
    if counts[Status.ERROR]:
        parts.append(f"{_many(counts[Status.ERROR], 'check')} crashed")
    return ", ".join(parts)


def _print_line(console: Console, status: Status, name: str, text: str) -> None:
    word, style = _WORDS[status]
    width = _width(console)
    if width < _NARROW:
        indent = 2
        first, rest = "", _wrapped(text, width - indent)
    else:
        indent = _STATUS + _ID + 4
        first, *rest = _wrapped(text, width - indent)
    told = f"  {name:<{_ID}}  {first}".rstrip()
    line = Text.assemble((f"{word:<{_STATUS}}", style), told)
    for more in rest:
        line.append("\n" + " " * indent + more)
    if status is Status.SKIP:
        line.stylize("dim")
    console.print(line)


def _print_problem(console: Console, result: Result) -> None:
    word, style = _WORDS[result.finding.status]
    width = _width(console)
    first, *rest = _wrapped(f"{result.check.id}: {result.finding.summary}", width - _STATUS - 2)
    console.print(Text.assemble("\n", (f"{word:<{_STATUS}}", style), f"  {first}"))
    for line in rest:
        console.print(" " * (_STATUS + 2) + line)
    for label, text in _details(result):
        indent = _STATUS + 2 + _LABEL + 2
        first, *rest = _wrapped(text, width - indent)
        bold = "bold" if label == "remedy" else ""
        head = Text(" " * (_STATUS + 2))
        console.print(head.append(f"{label:<{_LABEL}}  ", "dim").append(first, bold))
        for line in rest:
            console.print(Text(" " * indent).append(line, bold))


def _details(result: Result) -> Iterator[tuple[str, str]]:
    for seen in result.finding.evidence:
        yield "seen", f"{seen.source}: {seen.observed}"
        yield "expected", seen.expected
    if result.finding.remedy:
        yield "remedy", result.finding.remedy


def _finding(result: Result) -> dict[str, Any]:
    finding = result.finding
    return {
        "id": result.check.id,
        "title": result.check.title,
        "status": finding.status.value,
        "summary": finding.summary,
        "cause": result.cause,
        "evidence": [asdict(seen) for seen in finding.evidence],
        "remedy": finding.remedy,
    }


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most ``width``; words that are longer, such as paths, stay whole."""
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return lines or [""]


def _width(console: Console) -> int:
    return min(console.width, _WIDTH)


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
