"""`kit weights export`, `export-peft`, `bundle` and `unbundle`."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from kit.cli import options as option
from kit.commands import command


def export(
    directory: Annotated[
        Path, typer.Argument(metavar="DIRECTORY", help="A converted directory, bf16 or fp32.")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The directory to make.")],
    ranks: Annotated[
        int, typer.Option("--tp", min=1, max=100, metavar="N", help="Tensor-parallel ranks.")
    ] = 1,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"], typer.Option(help="Of the shards' weights.")
    ] = "fp32",
    overwrite: Annotated[bool, option.Overwrite] = False,
    as_json: Annotated[bool, option.Json] = False,
) -> None:
    """Write a converted directory as checkpoint shards that upstream's own code loads."""
    from kit.cli.transfer import TransferView
    from kit.units import format_gib
    from kit.weights.carry.export import export_upstream

    with TransferView("exporting") as view:
        exported = export_upstream(
            directory,
            output,
            ranks=ranks,
            precision=precision,
            overwrite=overwrite,
            progress=view.watch().progress,
        )
    if as_json:
        print(json.dumps({"output": str(output), **asdict(exported)}, ensure_ascii=False, indent=2))
    else:
        size = format_gib(sum(exported.files.values()))
        shards = "shard" if ranks == 1 else "shards"
        print(f"{output} holds {ranks} {shards}: {size} in {precision}")
    if exported.nonfinite_count:
        print(
            f"warning: {exported.nonfinite_count} weights are infinite or NaN in {precision}",
            file=sys.stderr,
        )


def export_peft(
    adapter: Annotated[
        Path, typer.Argument(metavar="ADAPTER", help="A LoRA adapter in upstream's format.")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The directory to make.")],
    alpha: Annotated[
        float | None,
        typer.Option(
            "--lora-alpha",
            metavar="A",
            help="The adapter's alpha.",
            show_default="from lora_config.json beside it",
        ),
    ] = None,
    overwrite: Annotated[bool, option.Overwrite] = False,
    as_json: Annotated[bool, option.Json] = False,
) -> None:
    """Write an adapter for the peft library, to be put on a converted directory's model."""
    from kit.weights.carry.export import export_peft as export

    written = export(adapter, output, alpha=alpha, overwrite=overwrite)
    if as_json:
        print(json.dumps({"output": str(output), **asdict(written)}, ensure_ascii=False, indent=2))
    else:
        modules = ", ".join(written.target_modules)
        print(
            f"{output} holds the adapter: rank {written.rank}, alpha {written.alpha:g}, {modules}"
        )


def bundle(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Fetched sets, or converted directories' names."),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="PATH", help="A folder, or a file in .tar."),
    ],
) -> None:
    """Pack weights for machines without a network. Interrupted, the same command goes on."""
    from kit.cli.transfer import TransferView
    from kit.settings import Settings
    from kit.units import format_gib
    from kit.weights.carry.bundle import bundle as write_bundle

    with TransferView("bundling") as view:
        made = write_bundle(
            names, output.expanduser().absolute(), Settings.from_environ().data_dir, view.watch()
        )
    size = format_gib(sum(locked.size_bytes for locked in made.files.values()))
    print(f"{made.path} holds {', '.join(names)}: {size} in {len(made.files)} files")
    print(f"on the other machine: {command('kit weights unbundle', made.path.name)}")
    if not made.has_licence:
        print(
            "note: the licence's text is not here; whoever passes weights on adds it",
            file=sys.stderr,
        )


def unbundle(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="What kit weights bundle made.")],
) -> None:
    """Take a bundle into the weights folder, checked. Interrupted, the same command goes on."""
    from kit.cli.transfer import TransferView
    from kit.settings import Settings
    from kit.weights.carry.unbundle import unbundle as read_bundle

    data_dir = Settings.from_environ().data_dir
    with TransferView("unbundling") as view:
        folders = read_bundle(path.expanduser().absolute(), data_dir, view.watch())
    for folder in folders:
        print(data_dir / folder)
