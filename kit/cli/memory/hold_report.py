"""What `kit memory assert` prints at its end: its receipt, for people and as JSON."""

from typing import Any

from rich.console import Console
from rich.text import Text

from kit.cli.output import print_record
from kit.proof.explain import ratio_remark
from kit.records import read_object
from kit.service.assert_memory import HoldReport
from kit.units import format_gib

_OUTCOMES = {
    "held": ("held its memory budget", "bold green"),
    "breached": ("passed its memory budget", "bold red"),
    "unmeasured": ("could not be measured", "bold red"),
}
_POOLS = {"host": "host RAM", "device": "VRAM"}


def print_json(report: HoldReport) -> None:
    """The receipt, and where it and its pictures are."""
    print_record({"receipt": _record(report), "files": _files(report)})


def print_text(report: HoldReport) -> None:
    """The receipt in a few lines."""
    console = Console(highlight=False, markup=False)
    record = _record(report)
    words, style = _OUTCOMES[record["outcome"]]
    console.print(Text.assemble("\n", (f"{record['model']['name']} {words}", style)))
    for label, text in _facts(record):
        console.print(f"  {label:<10}{text}", soft_wrap=True)
    for label, path in zip(("receipt", "picture", "page"), _files(report), strict=False):
        console.print(f"  {label:<10}{path}", soft_wrap=True)


def _files(report: HoldReport) -> list[str]:
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
    for name, label in _POOLS.items():
        if (pool := record["pools"].get(name)) is not None:
            facts += _pool(label, pool)
    if "device" not in record["pools"]:
        facts.append(("VRAM", "none: no GPU in use"))
    return facts


def _pool(label: str, pool: dict[str, Any]) -> list[tuple[str, str]]:
    budget = format_gib(pool["budget_bytes"])
    if pool["peak_bytes"] is None:
        return [(label, f"could not be measured: {pool['unavailable']}; budget {budget}")]
    peak, planned = pool["peak_bytes"], pool["planned_bytes"]
    lines = [(label, f"peak {format_gib(peak)}, planned {format_gib(planned)}, budget {budget}")]
    if planned:
        lines.append(("", ratio_remark(peak, planned)))
    return lines


def _record(report: HoldReport) -> dict[str, Any]:
    return read_object(report.receipt)
