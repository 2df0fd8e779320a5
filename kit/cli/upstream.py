"""`kit upstream`: the pinned Spark repo, and the rewrites that make it run."""

import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kit.cli import options as option
from kit.cli.render import print_record
from kit.commands import command
from kit.errors import EnvironmentNotReady, IntegrityError, UsageError
from kit.settings import Settings

if TYPE_CHECKING:
    from kit.lock import Lock
    from kit.upstream.render import FileDiff
    from kit.upstream.rewrite import Rewrite
    from kit.upstream.verify import Listed, Tree


Lock_ = Annotated[
    Path | None,
    typer.Option(
        "--lock",
        metavar="FILE",
        help="What upstream must be; for a fork of it.",
        show_default="KIT_UPSTREAM_LOCK, else the kit's own",
    ),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="SOURCE",
        help="Another source: a git URL, a clone or folder, or a tarball.",
        show_default="the fetched tree",
    ),
]
Groups = Annotated[
    str | None,
    typer.Option(
        metavar="A,B",
        help="Groups of rewrites.",
        show_default="portability,loading-stream,memory-serving",
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--rewrite", metavar="NAME", help="This rewrite, with the --groups given. Repeatable."
    ),
]
Without = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Not this rewrite, or group. Repeatable."),
]


def read_settings(lock: Path | None) -> Settings:
    """The settings, with ``--lock`` applied."""
    settings = Settings.from_environ()
    return replace(settings, upstream_lock=lock) if lock is not None else settings


def chosen(
    groups: str | None, names: list[str] | None, without: list[str] | None
) -> "tuple[Rewrite, ...]":
    """The rewrites that the options choose."""
    from kit.upstream.selection import select

    split = None if groups is None else [name for name in groups.split(",") if name]
    return select(split, names=names or (), without=without or ())


def pristine_files(settings: Settings, source: str | None) -> "tuple[dict[str, bytes], Lock]":
    """Upstream's files, verified, from the fetched tree or ``--from``; and the lock."""
    from kit.upstream.source import read_source
    from kit.upstream.tree import pinned, read_pristine

    lock = pinned(settings)
    return read_source(source, lock) if source else read_pristine(settings), lock


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
    from kit.upstream.render import diff_files, render

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


def fetch(
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="SOURCE",
            help="A git URL, a clone or folder, or a tarball.",
            show_default="KIT_UPSTREAM_MIRROR, else the pinned repository",
        ),
    ] = None,
    lock: Lock_ = None,
    as_json: Annotated[bool, option.Json] = False,
) -> None:
    """Bring in the pinned commit, as kit.lock has it.

    Every file is checked against its sha256; if one differs, nothing is written.
    """
    from kit.upstream.source import fetch as run

    fetched = run(read_settings(lock), source, lambda text: print(text, file=sys.stderr))
    if as_json:
        print_record(asdict(fetched) | {"directory": str(fetched.directory)})
        return
    origin = f"from {fetched.source}" if fetched.source else "there already"
    print(
        f"{fetched.directory} holds commit {fetched.commit}: {fetched.files} files, verified, "
        f"{origin}"
    )


_WRAPPED: Any = {
    "initial_indent": " " * 6,
    "subsequent_indent": " " * 8,
    "break_long_words": False,
    "break_on_hyphens": False,
}


def list_(lock: Lock_ = None, as_json: Annotated[bool, option.Json] = False) -> None:
    """Show every rewrite, and how it stands.

    It fits the pristine tree, is applied in the rewritten one, or has drifted.
    """
    from kit.upstream.verify import list_rewrites

    listed = list_rewrites(read_settings(lock))
    if as_json:
        print_record(_record(listed))
    else:
        _print(listed)


def _record(listed: "list[Listed]") -> dict[str, Any]:
    from kit.upstream.selection import DEFAULT_GROUPS, MEANING, rewrite_digest, select

    return {
        "digest": rewrite_digest(select()),
        "groups": {
            group: {"what": what, "default": group in DEFAULT_GROUPS}
            for group, what in MEANING.items()
        },
        "rewrites": [
            {
                "name": each.rewrite.name,
                "group": each.rewrite.group,
                "why": each.rewrite.why,
                "retire_when": each.rewrite.retire_when,
                "files": sorted(each.rewrite.edits),
                "adds": each.rewrite.adds,
                "standing": each.standing,
                "drift": each.drift,
            }
            for each in listed
        ],
    }


def _print(listed: "list[Listed]") -> None:
    from rich.console import Console

    from kit.upstream.selection import DEFAULT_GROUPS, MEANING

    console = Console(highlight=False, markup=False)
    for group, what in MEANING.items():
        default = "by default" if group in DEFAULT_GROUPS else "on request"
        console.print(f"{group} ({default}): {what}", style="bold")
        for each in (each for each in listed if each.rewrite.group == group):
            rewrite = each.rewrite
            console.print(f"\n  {rewrite.name} - {each.standing}")
            for line in (
                f"why: {rewrite.why}",
                f"where: {', '.join(sorted(rewrite.edits))}",
                f"retire when: {rewrite.retire_when}",
                *each.drift,
            ):
                print(fill(line, console.width, **_WRAPPED))
        console.print()


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
    as_json: Annotated[bool, option.Json] = False,
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


def run(
    script: Annotated[
        str, typer.Argument(metavar="SCRIPT", help="Below deepspeed-megatron, such as sft_….py.")
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARGUMENTS", help="The script's own.")
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option(envvar="KIT_DEVICE", help="auto: the GPU if any."),
    ] = "auto",
    ranks: Annotated[
        int, typer.Option(min=1, metavar="N", help="Processes, each with a GPU of its own.")
    ] = 1,
    lock: Lock_ = None,
) -> None:
    """Run one of upstream's own scripts, out of the rewritten tree.

    Every file of the tree is checked against kit.lock first. Options of this command come before
    SCRIPT, all that follows is the script's. Paths are relative to the current folder.
    """
    from kit.runtime.packages import require_megatron_packages

    require_megatron_packages()
    from kit.serve.gpu import named_device
    from kit.upstream.script import command, environment, find_script
    from kit.upstream.tree import require_rewritten

    if ranks > 1 and "RANK" in os.environ:
        raise UsageError(
            "another launcher has started this process already: RANK is set",
            hint="leave --ranks out, or unset RANK",
        )
    tree = require_rewritten(read_settings(lock)).resolve()
    path = find_script(tree, script)
    kind = named_device(device).type
    start = command(tree, path, arguments or (), _devices(kind, ranks))
    sys.stdout.flush()
    os.execve(start[0], start, environment(tree, kind, ranks))  # noqa: S606  (this Python)


def _devices(kind: str, ranks: int) -> list[str]:
    """A name for each rank: its GPU, as CUDA has it visible."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in visible.split(",")] if visible else []
    if kind == "cpu" or not names:
        return [str(index) for index in range(ranks)]
    if len(names) < ranks:
        raise UsageError(
            f"{ranks} ranks need a GPU each, CUDA_VISIBLE_DEVICES names {len(names)}",
            hint=f"use --ranks {len(names)}, or name more",
        )
    return names[:ranks]


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
    as_json: Annotated[bool, option.Json] = False,
) -> None:
    """Check every file of the trees against kit.lock."""
    from kit.upstream.tree import pinned
    from kit.upstream.verify import verify as run
    from kit.upstream.verify import verify_tree

    settings = read_settings(lock)
    pin = pinned(settings)
    trees = run(settings) if directory is None else (verify_tree(directory, pin),)
    if as_json:
        print_record({"commit": pin.commit, "trees": [_verify_record(tree) for tree in trees]})
    else:
        for tree in trees:
            _verify_print(tree, pin.commit)
    if directory is None:
        _require_sound(trees)
    else:
        _require_sound_tree(trees[0])


def _verify_record(tree: "Tree") -> dict[str, Any]:
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


def _verify_print(tree: "Tree", commit: str) -> None:
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


app = typer.Typer(
    help="Bring in the pinned Spark repo, verify and rewrite it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.command()(fetch)
app.command()(verify)
app.command()(render)
app.command()(diff)
app.command("list")(list_)
app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})(
    run
)
