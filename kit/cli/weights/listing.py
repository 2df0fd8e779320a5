"""`kit weights list`, `lock`, `verify` and `refresh`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kit.cli import options as option

if TYPE_CHECKING:
    from kit.settings import Settings
    from kit.weights.catalogue import Catalogue
    from kit.weights.convert.verify import Checked
    from kit.weights.fetch.transfer import Watch
    from kit.weights.listing import SetState


def list_(
    as_json: Annotated[bool, option.Json] = False,
) -> None:
    """Show what can be fetched, from where, and what is here already."""
    from kit.settings import Settings
    from kit.weights.catalogue import read_catalogue
    from kit.weights.layers import read_layers
    from kit.weights.listing import list_sets

    settings = Settings.from_environ()
    catalogue = read_catalogue(settings.weights_catalogue)
    states = list_sets(catalogue, read_layers(settings.data_dir), settings.data_dir)
    if as_json:
        print(json.dumps(_as_json(states, catalogue), ensure_ascii=False, indent=2))
    else:
        _print_table(states, catalogue)


def _as_json(states: "tuple[SetState, ...]", catalogue: "Catalogue") -> dict[str, Any]:
    sets = [
        asdict(state)
        | {
            "directory": str(state.directory),
            "converted": [str(path) for path in state.converted],
            "damaged": [str(path) for path in state.damaged],
        }
        for state in states
    ]
    sources = {name: {"kind": s.kind, "what": s.what} for name, s in catalogue.sources.items()}
    return {"weights": sets, "sources": sources}


def _print_table(states: "tuple[SetState, ...]", catalogue: "Catalogue") -> None:
    from rich.console import Console
    from rich.table import Table

    from kit.cli.render import print_table

    table = Table(box=None, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("what", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("sources", overflow="fold")
    table.add_column("here", overflow="fold")
    for state in states:
        sources = ", ".join(state.sources)
        table.add_row(state.name, state.what, _size(state), sources, _here(state))
    console = Console(highlight=False)
    print_table(console, table)
    for name, source in catalogue.sources.items():
        console.print(f"{name}: {source.what}", markup=False, soft_wrap=True)
    for licence in catalogue.licences.values():
        console.print(f"licence {licence.name}: {licence.summary[0]} {licence.url}", soft_wrap=True)


def _size(state: "SetState") -> str:
    from kit.units import format_gib

    if state.size_bytes is None:
        return "unknown"
    return format_gib(state.size_bytes) if state.exact else f"about {format_gib(state.size_bytes)}"


def _here(state: "SetState") -> str:
    if state.damaged:
        return f"damaged record: {', '.join(path.name for path in state.damaged)}"
    if state.converted:
        return f"converted: {', '.join(path.name for path in state.converted)}"
    if state.verified:
        return "verified"
    if state.complete:
        return "fetched, not verified"
    if state.here_bytes and state.size_bytes:
        return f"{min(state.here_bytes / state.size_bytes, 0.99):.0%} fetched"
    return "-"


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


def verify(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|DIR]",
            help="A fetched set or a converted directory.",
            show_default="all that is here",
        ),
    ] = None,
    as_json: Annotated[bool, option.Json] = False,
) -> None:
    """Read weights again and check every byte against the lock or the conversion's record."""
    from kit.cli.transfer import TransferView
    from kit.settings import Settings
    from kit.weights.convert.verify import require_sound

    settings = Settings.from_environ()
    with TransferView("verifying") as view:
        results = _results(what, settings, view.watch())
    if as_json:
        found = [
            {"path": str(r.path), "size_bytes": r.size_bytes, "problem": r.problem} for r in results
        ]
        print(json.dumps({"files": found}, ensure_ascii=False, indent=2))
    else:
        for result in results:
            print(f"{result.path}: {result.problem or 'ok'}")
    require_sound(
        results,
        "fetch a set again with kit weights fetch; make a converted directory again with "
        "kit weights convert --overwrite",
    )


def _results(what: str | None, settings: "Settings", watch: "Watch") -> "tuple[Checked, ...]":
    from kit.weights.convert.verify import verify_all, verify_one

    if what is None:
        return verify_all(settings.data_dir, watch)
    return verify_one(what, Path(what).expanduser(), settings.data_dir, watch)


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
    from kit.weights.convert.support_files import refresh

    renewed = refresh(directory, accept or ())
    for name in renewed:
        print(f"{directory / name}: renewed")
    for name in accept or ():
        print(f"{directory / name}: taken as it is")
    if not renewed and not accept:
        print(f"{directory} is up to date")
