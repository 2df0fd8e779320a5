"""`kit weights bundle` and `kit weights unbundle`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from kit.commands import command


def bundle(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Fetched sets, or converted directories' names."),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="PATH", help="A folder, or a file in .tar."),
    ],
) -> None:
    """Pack weights for machines without a network. Interrupted, the same command goes on."""
    from kit.cli.transfer import TransferView
    from kit.settings import Settings
    from kit.units import format_gib
    from kit.weights.bundle import bundle as write_bundle

    with TransferView("bundling") as view:
        made = write_bundle(
            names, output.expanduser().absolute(), Settings.from_environ().data_dir, view.watch()
        )
    size = format_gib(sum(locked.size_bytes for locked in made.files.values()))
    print(f"{made.path} holds {', '.join(names)}: {size} in {len(made.files)} files")
    print(f"on the other machine: {command('kit weights unbundle', made.path.name)}")
    if not made.has_licence:
        print(
            "note: the licence's text is not here; whoever passes weights on adds it",
            file=sys.stderr,
        )


def unbundle(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="What kit weights bundle made.")],
) -> None:
    """Take a bundle into the weights folder, checked. Interrupted, the same command goes on."""
    from kit.cli.transfer import TransferView
    from kit.settings import Settings
    from kit.weights.unbundle import unbundle as read_bundle

    data_dir = Settings.from_environ().data_dir
    with TransferView("unbundling") as view:
        folders = read_bundle(path.expanduser().absolute(), data_dir, view.watch())
    for folder in folders:
        print(data_dir / folder)
