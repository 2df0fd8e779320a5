"""`kit memory cards`."""

from typing import Annotated

import typer

from kit.cli.output import print_record, print_table


def cards(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="As the table of docs/memory.md.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Show what common GPUs serve iFlytekSpark-13B with: tokens of context x answers at once."""
    from rich.console import Console
    from rich.table import Table

    from kit.memory import cards as known
    from kit.memory.fit import PRECISIONS
    from kit.units import format_gib
    from kit.weights.catalogue import read_catalogue
    from kit.weights.planned import published

    rows = known.card_options(published(read_catalogue()))
    if as_json:
        print_record({"cards": [known.record(row) for row in rows]})
        return
    if markdown:
        print(known.markdown_table(rows))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("GPU", "usable", *PRECISIONS):
        table.add_column(column, justify="left" if column == "GPU" else "right", no_wrap=True)
    for row in rows:
        cells = (known.describe(row.best.get(precision)) for precision in PRECISIONS)
        table.add_row(row.card.name, format_gib(row.card.usable_bytes), *cells)
    print_table(Console(highlight=False, markup=False), table)
