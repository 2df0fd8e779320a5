"""`kit upstream run`."""

import os
import sys
from typing import Annotated, Literal

import typer

from kit.cli.upstream.options import Lock_, read_settings
from kit.errors import UsageError


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

    Every file of the tree is held against kit.lock first. Options of this command come before
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
