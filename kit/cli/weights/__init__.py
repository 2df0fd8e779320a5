"""`kit weights`: one file for each command."""

import typer

from kit.cli.weights import (
    bundle,
    convert,
    export,
    export_peft,
    fetch,
    import_,
    listing,
    lock,
    refresh,
    verify,
)

app = typer.Typer(
    help="Fetch, verify, convert, export and bundle weights.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.command("list")(listing.list_)
app.command("fetch")(fetch.fetch)
app.command("import")(import_.import_)
app.command("verify")(verify.verify)
app.command("lock")(lock.lock)
app.command("convert")(convert.convert)
app.command("refresh")(refresh.refresh)
app.command("export")(export.export)
app.command("export-peft")(export_peft.export_peft)
app.command("bundle")(bundle.bundle)
app.command("unbundle")(bundle.unbundle)
