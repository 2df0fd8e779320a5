"""`kit memory`: one file for each command."""

import typer

from kit.cli.memory import plan

app = typer.Typer(
    help="Predict the memory that serving takes.", no_args_is_help=True, rich_markup_mode=None
)
app.command("plan")(plan.plan)


@app.callback()
def _group() -> None:
    pass
