"""`kit upstream fetch`."""

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from kit.cli.output import print_record
from kit.cli.upstream.options import Json, Lock_, read_settings


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
    as_json: Json = False,
) -> None:
    """Bring in the pinned commit, as kit.lock has it.

    Every file is held against its sha256; if one differs, nothing is written.
    """
    from kit.upstream.fetch import fetch as run

    fetched = run(read_settings(lock), source, lambda text: print(text, file=sys.stderr))
    if as_json:
        print_record(asdict(fetched) | {"directory": str(fetched.directory)})
        return
    origin = f"from {fetched.source}" if fetched.source else "there already"
    print(
        f"{fetched.directory} holds commit {fetched.commit}: {fetched.files} files, verified, "
        f"{origin}"
    )
