"""`kit weights verify` and `kit weights refresh`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kit.cli import options as option

if TYPE_CHECKING:
    from kit.settings import Settings
    from kit.weights.transfer import Watch
    from kit.weights.verify import Checked


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
    from kit.weights.verify import require_sound

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
    from kit.weights.verify import verify_all, verify_one

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
    from kit.weights.refresh import refresh

    renewed = refresh(directory, accept or ())
    for name in renewed:
        print(f"{directory / name}: renewed")
    for name in accept or ():
        print(f"{directory / name}: taken as it is")
    if not renewed and not accept:
        print(f"{directory} is up to date")
