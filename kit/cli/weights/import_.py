"""`kit weights import`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from kit.cli.weights.next_step import next_step


def import_(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            readable=False,  # what cannot be read is said by take_in
            help="Files, or folders that hold them.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            "--as", metavar="NAME", help="What they are.", show_default="told by their paths"
        ),
    ] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy large files, even where a hard link would do.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Take weights that are on this machine already into the weights folder, checked."""
    from kit.cli.transfer import TransferView
    from kit.lock import locked_entry
    from kit.settings import Settings
    from kit.weights.catalogue import read_catalogue
    from kit.weights.take_in import take_in

    settings = Settings.from_environ()
    catalogue = read_catalogue(settings.weights_catalogue)
    with TransferView("importing") as view:
        taken = take_in(
            paths, catalogue, settings.data_dir, name=name, link=not copy, watch=view.watch()
        )
    if as_json:
        content = {
            each.name: {
                "directory": str(each.directory),
                "files": {file: locked_entry(locked) for file, locked in each.files.items()},
                "missing": each.missing,
            }
            for each in taken
        }
        print(json.dumps(content, ensure_ascii=False, indent=2))
        return
    for each in taken:
        print(f"{each.directory} holds {each.name}: {', '.join(each.files)}")
        if each.missing:
            print(f"missing: {', '.join(each.missing)}; get them: kit weights fetch {each.name}")
        elif step := next_step(each.name, each.directory, each.files, settings):
            print(step)
