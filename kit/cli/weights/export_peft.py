"""`kit weights export-peft`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


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
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing OUTPUT.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="What was written, on stdout.")] = False,
) -> None:
    """Write an adapter for the peft library, to be put on a converted directory's model."""
    from kit.weights.peft import export_peft as export

    written = export(adapter, output, alpha=alpha, overwrite=overwrite)
    if as_json:
        print(json.dumps({"output": str(output), **asdict(written)}, ensure_ascii=False, indent=2))
    else:
        modules = ", ".join(written.target_modules)
        print(
            f"{output} holds the adapter: rank {written.rank}, alpha {written.alpha:g}, {modules}"
        )
