"""`kit weights`: one file for what belongs together."""

import typer

from kit.cli.weights import convert, fetch, listing
from kit.cli.weights.carry import bundle, export, export_peft, unbundle
from kit.cli.weights.fetch import import_
from kit.cli.weights.listing import lock, refresh, verify

app = typer.Typer(
    help="Fetch, verify, convert, export and bundle weights.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.command("list")(listing.list_)
app.command("fetch")(fetch.fetch)
app.command("import")(import_)
app.command("verify")(verify)
app.command("lock")(lock)
app.command("convert")(convert.convert)
app.command("refresh")(refresh)
app.command("export")(export)
app.command("export-peft")(export_peft)
app.command("bundle")(bundle)
app.command("unbundle")(unbundle)
