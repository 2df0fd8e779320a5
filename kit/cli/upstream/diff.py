"""`kit upstream diff`."""

from typing import TYPE_CHECKING, Annotated

import typer

from kit.cli.upstream.options import (
    From,
    Groups,
    Lock_,
    Names,
    Without,
    chosen,
    pristine_files,
    read_settings,
)

if TYPE_CHECKING:
    from kit.upstream.diff import FileDiff


def diff(
    source: From = None,
    groups: Groups = None,
    names: Names = None,
    without: Without = None,
    stat: Annotated[bool, typer.Option("--stat", help="Lines added and removed by file.")] = False,
    name_only: Annotated[bool, typer.Option("--name-only", help="The changed files.")] = False,
    lock: Lock_ = None,
) -> None:
    """Show what the rewrites change, for git apply."""
    from kit.upstream.diff import diff_files
    from kit.upstream.render import render

    rewrites = chosen(groups, names, without)
    pristine, pin = pristine_files(read_settings(lock), source)
    diffs = diff_files(pristine, render(pristine, rewrites, pin))
    if name_only:
        for each in diffs:
            print(each.file)
    elif stat:
        _print_stat(diffs)
    else:
        for each in diffs:
            print(each.text, end="")


def _print_stat(diffs: "list[FileDiff]") -> None:
    width = max((len(each.file) for each in diffs), default=0)
    for each in diffs:
        names = ", ".join(each.rewrites)
        print(f"{each.file:{width}}  +{each.added:<4} -{each.removed:<4}  {names}")
    added, removed = sum(each.added for each in diffs), sum(each.removed for each in diffs)
    print(f"{len(diffs)} files changed, {added} lines added, {removed} removed")
