"""`kit memory`: one file for each command."""

import typer

from kit.cli.memory import cards, explain, hold, plan, watch

app = typer.Typer(
    help="Predict, watch and prove the memory that serving takes.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.command("plan")(plan.plan)
app.command("cards")(cards.cards)
app.command("watch")(watch.watch)
app.command("hold")(hold.hold)
app.command("explain")(explain.explain)


@app.callback()
def _group() -> None:
    pass
