"""`kit upstream verify`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kit.cli.output import print_record
from kit.cli.upstream.options import Json, Lock_, read_settings
from kit.commands import command
from kit.errors import EnvironmentNotReady, IntegrityError

if TYPE_CHECKING:
    from kit.upstream.verify import Tree


def verify(
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]",
            help="Any tree, pristine or rewritten.",
            show_default="those that fetch and render have made",
        ),
    ] = None,
    lock: Lock_ = None,
    as_json: Json = False,
) -> None:
    """Hold every file of the trees against kit.lock."""
    from kit.upstream.tree import pinned
    from kit.upstream.verify import verify as run
    from kit.upstream.verify import verify_tree

    settings = read_settings(lock)
    pin = pinned(settings)
    trees = run(settings) if directory is None else (verify_tree(directory, pin),)
    if as_json:
        print_record({"commit": pin.commit, "trees": [_record(tree) for tree in trees]})
    else:
        for tree in trees:
            _print(tree, pin.commit)
    if directory is None:
        _require_sound(trees)
    else:
        _require_sound_tree(trees[0])


def _record(tree: "Tree") -> dict[str, Any]:
    manifest = tree.manifest
    return {
        "directory": str(tree.directory),
        "state": tree.state,
        **asdict(tree.difference),
        "left": tree.left,
        "outdated": tree.outdated,
        "digest": manifest.digest if manifest else None,
        "rewrites": manifest.rewrites if manifest else [],
    }


def _print(tree: "Tree", commit: str) -> None:
    about = ""
    if tree.state == "pristine":
        about = f", commit {commit}"
    elif tree.outdated:
        about = f": it {tree.outdated}"
    elif tree.manifest is not None:
        count, changed = len(tree.manifest.rewrites), len(tree.manifest.changed)
        about = f", rewrites: {count}, files changed: {changed}, digest {tree.manifest.digest}"
    print(f"{tree.directory}: {tree.state}{about}")
    for line in tree.difference.lines():
        print(f"  {line}")
    for file in tree.left:
        print(f"  {file} was left by upstream's scripts")


def _require_sound_tree(tree: "Tree") -> None:
    """One that the user has named; `fetch` and `render` go elsewhere by themselves."""
    directory, rewritten = tree.directory, tree.manifest is not None
    again = f"make it again: {command('kit upstream render --output', directory)}"
    if tree.state == "drifted":
        raise IntegrityError(
            f"{directory} is drifted",
            hint=again if rewritten else "take it again from where it came",
        )
    if tree.state == "outdated":
        raise EnvironmentNotReady(f"{directory} is not what this kit makes", hint=again)
    if tree.state == "absent" and not directory.exists():
        raise EnvironmentNotReady(f"there is no {directory}", hint="check the path")
    if tree.state == "absent":
        raise EnvironmentNotReady(
            f"{directory} holds no upstream",
            hint="name the folder in which deepspeed-megatron lies",
        )


def _require_sound(trees: "tuple[Tree, ...]") -> None:
    if drifted := [str(tree.directory) for tree in trees if tree.state == "drifted"]:
        raise IntegrityError(
            f"drifted: {', '.join(drifted)}",
            hint="make it again: kit upstream fetch, then kit upstream render",
        )
    if any(tree.state == "outdated" for tree in trees):
        raise EnvironmentNotReady(
            "the rewritten tree is not what this kit makes", hint="make it: kit upstream render"
        )
    if all(tree.state == "absent" for tree in trees):
        raise EnvironmentNotReady(
            "there is no upstream tree", hint="make it: kit upstream fetch && kit upstream render"
        )
