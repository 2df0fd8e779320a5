"""Options that commands of `kit upstream` share."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kit.settings import Settings

if TYPE_CHECKING:
    from kit.lock import Lock
    from kit.upstream.rewrite import Rewrite

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
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


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
