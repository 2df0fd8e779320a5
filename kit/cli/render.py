"""What all commands print with: tables, JSON, progress, in any encoding and any width."""

import io
import json
import sys
from contextlib import ExitStack
from textwrap import wrap
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status
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


# Piped, a line per quarter: enough to see that it goes on, few enough for a log.
_STEPS = 4
_SPINNER_COLUMNS = 3


class Terminal:
    """Shows messages and progress on stderr. A context manager; a :class:`Listener`."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False, markup=False)
        self._live = ExitStack()
        self._status: Status | None = None
        self._shown: tuple[str, int] | None = None

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.close()

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, soft_wrap=True)

    def progress(self, phase: str, fraction: float | None) -> None:
        """Show what is under way; piped, a line per phase and quarter."""
        text = f"{phase} {fraction:.0%}" if fraction else phase
        if self._console.is_interactive:
            from rich.text import Text

            self._status = self._status or self._live.enter_context(self._console.status(""))
            self._status.update(Text(text[: self._console.width - _SPINNER_COLUMNS]))
            return
        step = (phase, int((fraction or 0.0) * _STEPS))
        if step != self._shown:
            self._shown = step
            self.say(text)

    def pause(self) -> None:
        """Take what moves off the screen, so that a question can be asked."""
        self._live.close()
        self._status = None
