"""What commands print where the terminal's or the file's encoding cannot hold every character."""

import io
import json
import sys
from typing import Any


def tolerate_any_text() -> None:
    """Let stdout and stderr write ``?`` for what their encoding lacks, rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON in which every character that stdout may lack is escaped."""
    readable = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return json.dumps(value, ensure_ascii=not readable, indent=indent)


def print_record(record: dict[str, Any]) -> None:
    """Print one JSON object on stdout, which loses nothing in any encoding."""
    print(to_json(record, indent=2))
