"""Options of the commands that draw a timeline."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

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
