"""`kit upstream`: the pinned Spark repo, and the rewrites that make it run."""

import typer

from kit.cli.upstream import diff, fetch, listing, render, run, verify

app = typer.Typer(
    help="Bring in the pinned Spark repo, verify and rewrite it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.command()(fetch.fetch)
app.command()(verify.verify)
app.command()(render.render)
app.command()(diff.diff)
app.command("list")(listing.list_)
app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})(
    run.run
)
