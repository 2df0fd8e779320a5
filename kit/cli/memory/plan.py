"""`kit memory plan`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from kit.memory.plan import Plan


def plan(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A converted directory.")],
    context: Annotated[
        int | None,
        typer.Option(min=2, metavar="TOKENS", help="Tokens of prompt and answer together."),
    ] = None,
    max_sequences: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Answers at once.")
    ] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where it runs.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Show what serving the model in DIR takes, line by line, and how each figure is known."""
    from kit.memory.limits import serving_limits
    from kit.memory.plan import plan_serving
    from kit.memory.shape import read_shape
    from kit.memory.torch_build import installed_build

    shape = read_shape(directory)
    length, sequences = serving_limits(shape, context, max_sequences)
    found = plan_serving(
        shape,
        context=length,
        max_sequences=sequences,
        device=device,
        build=installed_build(),
    )
    if as_json:
        print(json.dumps({**asdict(found), "peak_bytes": _peaks(found)}, indent=2))
    else:
        _print_table(found)


def _peaks(found: "Plan") -> dict[str, int]:
    from kit.memory.plan import Pool

    return {pool.value: peak for pool in Pool if (peak := found.peak_bytes(pool))}


def _print_table(found: "Plan") -> None:
    from rich.console import Console
    from rich.table import Table

    from kit.units import format_gib

    title = f"{found.device}, {found.context} tokens of context, {found.max_sequences} at once"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("pool")
    table.add_column("line", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("phases")
    table.add_column("basis: why", overflow="fold")
    for line in found.lines:
        phases = " ".join(line.phases)
        why = f"{line.basis}: {line.why}"
        table.add_row(line.pool, line.name, format_gib(line.size_bytes), phases, why)
    for pool, peak in _peaks(found).items():
        table.add_row(pool, "peak", format_gib(peak), "", "", style="bold")
    Console(highlight=False).print(table)
