"""`kit upstream render`."""

from pathlib import Path
from typing import Annotated

import typer

from kit.cli.output import print_record
from kit.cli.upstream.options import (
    From,
    Groups,
    Json,
    Lock_,
    Names,
    Without,
    chosen,
    pristine_files,
    read_settings,
)


def render(
    source: From = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where the rewritten tree goes.",
            show_default="rewritten, beside the fetched tree",
        ),
    ] = None,
    groups: Groups = None,
    names: Names = None,
    without: Without = None,
    lock: Lock_ = None,
    as_json: Json = False,
) -> None:
    """Write the rewritten tree.

    It is written whole or not at all: a rewrite that does not fit is refused by name.
    """
    from kit.upstream.render import render as make
    from kit.upstream.render import write_rendered
    from kit.upstream.tree import rewritten_dir

    settings = read_settings(lock)
    rewrites = chosen(groups, names, without)
    pristine, pin = pristine_files(settings, source)
    rendered = make(pristine, rewrites, pin)
    target = (output or rewritten_dir(settings)).resolve()
    written = write_rendered(rendered, target)
    manifest = rendered.manifest
    if as_json:
        print_record(
            {
                "directory": str(target),
                "written": written,
                "commit": manifest.commit,
                "digest": manifest.digest,
                "rewrites": manifest.rewrites,
                "changed": manifest.changed,
            }
        )
        return
    print(
        f"{target} holds commit {manifest.commit}, rewritten{'' if written else ' as before'}\n"
        f"  rewrites  {', '.join(manifest.rewrites) or 'none'}\n"
        f"  files     {len(manifest.changed)} changed or added\n"
        f"  digest    {manifest.digest}"
    )
