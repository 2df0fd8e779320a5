"""`kit weights`: one file for each command."""

import typer

from kit.cli.weights import convert, export, export_peft

app = typer.Typer(
    help="Convert checkpoints, and export them.", no_args_is_help=True, rich_markup_mode=None
)
app.command("convert")(convert.convert)
app.command("export")(export.export)
app.command("export-peft")(export_peft.export_peft)
