"""`kit weights lock`."""

from pathlib import Path
from typing import Annotated

import typer


def lock(
    adopted: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            readable=False,  # what cannot be read is said by adopt
            help="Take in what a colleague's lock knows.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Let FILE win over your own lock.")
    ] = False,
    forgotten: Annotated[
        str | None,
        typer.Option("--forget", metavar="NAME", help="Drop a set from your own lock."),
    ] = None,
) -> None:
    """Print the lock in effect: what every file must be. Share it; --from takes one in."""
    from kit.lock import lock_text
    from kit.settings import Settings
    from kit.weights.layers import adopt, forget, read_layers

    data_dir = Settings.from_environ().data_dir
    if forgotten is not None:
        gone = forget(data_dir, forgotten)
        print(f"{forgotten}: {', '.join(gone)}")
    if adopted is not None:
        new = adopt(data_dir, adopted, overwrite=overwrite)
        for name, files in new.items():
            print(f"{name}: {', '.join(files)}")
        if not new:
            print("nothing new")
    if forgotten is None and adopted is None:
        print(lock_text(read_layers(data_dir)), end="")
