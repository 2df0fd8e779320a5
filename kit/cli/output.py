"""What commands print where the terminal's or the file's encoding cannot hold every character."""

import io
import json
import sys
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
    """Print a table without the blanks that fill its lines up to the console's width."""
    with console.capture() as capture:
        console.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def print_record(record: dict[str, Any]) -> None:
    """Print one JSON object on stdout, which loses nothing in any encoding."""
    print(to_json(record, indent=2))
