"""`kit weights refresh`."""

from pathlib import Path
from typing import Annotated

import typer


def refresh(
    directory: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="A converted directory.")],
    accept: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="A file of configuration that you changed: it counts as it is now.",
            show_default="none",
        ),
    ] = None,
) -> None:
    """Renew the code that an older kit wrote into a converted directory; tensors stay."""
    from kit.weights.refresh import refresh

    renewed = refresh(directory, accept or ())
    for name in renewed:
        print(f"{directory / name}: renewed")
    for name in accept or ():
        print(f"{directory / name}: taken as it is")
    if not renewed and not accept:
        print(f"{directory} is up to date")
