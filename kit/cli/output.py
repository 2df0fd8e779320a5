"""What commands print where the terminal's or the file's encoding cannot hold every character."""

import io
import json
import sys
from textwrap import wrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def tolerate_any_text() -> None:
    """Let stdout and stderr write ``?`` for what their encoding lacks, rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON in which every character that stdout may lack is escaped."""
    readable = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return json.dumps(value, ensure_ascii=not readable, indent=indent)


def print_table(console: "Console", table: "Table") -> None:
    """Print a table without the blanks that fill its lines up to the console's width.

    Where the console is narrower than what may not be wrapped, each row becomes a few lines.
    """
    from rich.cells import cell_len
    from rich.measure import Measurement

    for column in table.columns:
        if column.no_wrap:
            widths = [cell_len(str(cell)) for cell in (column.header, *column.cells)]
            column.min_width = max(column.min_width or 0, *widths)
    needed = Measurement.get(console, console.options.update(max_width=_ANY_WIDTH), table).minimum
    if needed > console.width:
        lines = _rows_as_lines(table, console.width)
    else:
        with console.capture() as capture:
            console.print(table)
        lines = [line.rstrip() for line in capture.get().splitlines()]
    print("\n".join(lines))


_ANY_WIDTH = 1000
"""Columns, more than any table needs."""


def _rows_as_lines(table: "Table", width: int) -> list[str]:
    """The table's title; then of each row the first cell, and below it the others by their name."""
    lines = str(table.title).splitlines() if table.title else []
    for first, *others in zip(*(column.cells for column in table.columns), strict=True):
        lines.append(str(first))
        names = [f"{column.header} " if table.show_header else "" for column in table.columns[1:]]
        told = [f"{name}{cell}" for name, cell in zip(names, others, strict=True) if str(cell)]
        text = "\n".join(told) if table.show_header else "  ".join(told)
        for line in text.splitlines():
            lines += wrap(line, width, initial_indent="  ", subsequent_indent="    ")
    return lines


def print_record(record: dict[str, Any]) -> None:
    """Print one JSON object on stdout, which loses nothing in any encoding."""
    print(to_json(record, indent=2))
