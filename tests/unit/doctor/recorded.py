"""Golden files of reports: text as a terminal of 80 columns shows it, and JSON.

``KIT_WRITE_GOLDEN=1`` writes them anew; read the difference before it is committed.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

import kit

FOLDER = Path(__file__).parent / "golden"
_PATHS = re.compile(r"(?<![\w:/])/[\w./-]+")
_SIZES = re.compile(r"\d+\.\d+ [GM]iB")
_TIMES = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d\+00:00")
_NUMBERS = re.compile(r"\d+(?:\.\d+)*")


def hold(name: str, text: str) -> None:
    """Compare with the golden file ``name``, in which the kit's version is left out."""
    path = FOLDER / name
    text = text.replace(kit.__version__, "VERSION")
    if os.environ.get("KIT_WRITE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def steady(text: str) -> str:
    """``text`` without sizes, times, other numbers and paths, on one line."""
    for pattern, word in ((_TIMES, "TIME"), (_SIZES, "SIZE"), (_PATHS, "PATH"), (_NUMBERS, "N")):
        text = pattern.sub(word, text)
    return " ".join(text.split())


def steady_findings(record: dict, vary: Iterable[str] = ()) -> str:
    """A line for each check: id, status, summary; of those in ``vary`` the id alone."""
    vary = set(vary)
    lines = [
        f"{found['id']}: varies"
        if found["id"] in vary
        else f"{found['id']}: {found['status']}: {steady(found['summary'])}"
        for found in record["findings"]
    ]
    return "\n".join(lines) + "\n"
