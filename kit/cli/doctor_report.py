"""What `kit doctor` prints: for people at 80 columns, and as JSON."""

import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

import kit
from kit.cli.render import print_record
from kit.doctor.check import Result
from kit.doctor.examine import Report
from kit.doctor.finding import Status
from kit.doctor.registry import CHECKS

if TYPE_CHECKING:
    from kit.doctor.examine import Report


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
