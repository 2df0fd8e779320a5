"""`kit memory`: one file for what belongs together."""

import typer

from kit.cli.memory import assert_, plan, simulate, watch
from kit.cli.memory.plan import cards
from kit.cli.memory.watch import explain

app = typer.Typer(
    help="Predict, watch and prove the memory that serving takes.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.command("plan", short_help="Show what serving a model takes, line by line.")(plan.plan)
app.command("simulate", short_help="Run the real code at full size without data or a GPU.")(
    simulate.simulate
)
app.command("cards", short_help="Show what common GPUs serve iFlytekSpark-13B with.")(cards)
app.command("watch", short_help="Watch the memory of the service, and keep its timeline.")(
    watch.watch
)
app.command("assert", short_help="Prove the peak at full context, with a receipt.")(assert_.assert_)
app.command("hold", hidden=True, help="The former name of assert.")(assert_.assert_)
app.command("explain", short_help="Say where the peak of a timeline came from.")(explain)


@app.callback()
def _group() -> None:
    pass
