"""`kit memory explain`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kit.settings import Settings

if TYPE_CHECKING:
    from kit.memory.timeline import Timeline


Png = typer.Option("--png", metavar="FILE", help="Draw the timeline as a picture.")
Html = typer.Option("--html", metavar="FILE", help="Draw it as a page that needs nothing else.")


def draw(timeline: "Timeline", png: Path | None, html: Path | None) -> tuple[Path, ...]:
    """Write the pictures that are asked for; returns them.

    Raises:
        EnvironmentNotReady: matplotlib is not installed, or a file cannot be written.
    """
    from kit.errors import EnvironmentNotReady
    from kit.proof.picture import write_html, write_png

    try:
        if png is not None:
            write_png(timeline, png)
        if html is not None:
            write_html(timeline, html)
    except OSError as error:
        raise EnvironmentNotReady(
            f"the picture cannot be written: {error}", hint="name another place"
        ) from error
    return tuple(path for path in (png, html) if path is not None)


def explain(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="A timeline (JSON lines).", show_default="the newest one"
        ),
    ] = None,
    png: Annotated[Path | None, Png] = None,
    html: Annotated[Path | None, Html] = None,
) -> None:
    """Say where the memory peak of a kept timeline came from, in words and numbers."""
    from kit.memory.timeline import read_timeline
    from kit.proof.explain import explain as in_words
    from kit.proof.receipt import latest_timeline

    path = file or latest_timeline(Settings.from_environ().state_dir)
    timeline = read_timeline(path)
    for line in in_words(timeline):
        print(line)
    print(f"timeline: {path}")
    for picture in draw(timeline, png, html):
        print(f"drawn: {picture}")
