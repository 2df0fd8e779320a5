"""`kit memory explain`."""

from pathlib import Path
from typing import Annotated

import typer

from kit.cli.memory import pictures
from kit.settings import Settings


def explain(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="A timeline (JSON lines).", show_default="the newest one"
        ),
    ] = None,
    png: Annotated[Path | None, pictures.Png] = None,
    html: Annotated[Path | None, pictures.Html] = None,
) -> None:
    """Say where the memory peak of a kept timeline came from, in words and numbers."""
    from kit.memory.timeline import read_timeline
    from kit.proof.evidence import latest_timeline
    from kit.proof.explain import explain as in_words

    path = file or latest_timeline(Settings.from_environ().state_dir)
    timeline = read_timeline(path)
    for line in in_words(timeline):
        print(line)
    print(f"timeline: {path}")
    for picture in pictures.draw(timeline, png, html):
        print(f"drawn: {picture}")
