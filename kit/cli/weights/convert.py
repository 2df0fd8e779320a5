"""`kit weights convert`."""

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kit.cli import options as option
from kit.commands import command

if TYPE_CHECKING:
    from kit.weights.convert.record import ConversionRecord

Source = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE",
        help="Upstream's mp_rank_00_model_states.pt, the folder of all its tensor-parallel "
        "shards, or MindSpore's .ckpt.",
    ),
]
Output = Annotated[Path, typer.Argument(metavar="OUTPUT", help="The directory to make.")]
ToPrecision = Annotated[
    Literal["bf16", "fp32", "int8", "int4"],
    typer.Option(help="Of the converted weights; int8 and int4 keep embeddings in bf16."),
]
Tokenizer = Annotated[
    Path | None,
    typer.Option(help="The SentencePiece model.", show_default="found near the checkpoint"),
]
Config = Annotated[
    Path | None,
    typer.Option(
        help="JSON with upstream's arguments, for what the tensors do not tell.",
        show_default="config.json near the checkpoint",
    ),
]
Heads = Annotated[
    int | None,
    typer.Option(
        "--heads",
        "--num-heads",
        min=1,
        metavar="N",
        help="Attention heads.",
        show_default="from config.json, else heads of 128",
    ),
]
Lora = Annotated[
    Path | None,
    typer.Option(metavar="ADAPTER", help="Merge this LoRA adapter in upstream's format."),
]
LoraAlpha = Annotated[
    float | None,
    typer.Option(
        metavar="A", help="The adapter's alpha.", show_default="from lora_config.json beside it"
    ),
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Read both again and prove that every tensor is equal.")
]
AllowNonfinite = Annotated[
    bool, typer.Option("--allow-nonfinite", help="Keep weights that are infinite or NaN.")
]


def convert(
    source: Source,
    output: Output,
    precision: ToPrecision = "bf16",
    tokenizer: Tokenizer = None,
    config: Config = None,
    heads: Heads = None,
    lora: Lora = None,
    lora_alpha: LoraAlpha = None,
    overwrite: Annotated[bool, option.Overwrite] = False,
    verify: Verify = False,
    allow_nonfinite: AllowNonfinite = False,
    as_json: Annotated[bool, option.Json] = False,
) -> None:
    """Convert a checkpoint into a directory that the kit and Hugging Face tools open."""
    from kit.cli.transfer import TransferView
    from kit.settings import Settings
    from kit.weights.convert.convert import convert_checkpoint
    from kit.weights.convert.verify import prove_conversion, require_provable
    from kit.weights.folder import checked_digest

    if verify:
        require_provable(precision, lora)
    with TransferView("converting") as view:
        record = convert_checkpoint(
            source,
            output,
            precision=precision,
            tokenizer=tokenizer,
            config=config,
            num_heads=heads,
            lora=lora,
            lora_alpha=lora_alpha,
            overwrite=overwrite,
            allow_nonfinite=allow_nonfinite,
            known=partial(checked_digest, Settings.from_environ().data_dir),
            progress=view.watch().progress,
        )
    proven = None
    if verify:
        with TransferView("comparing") as view:
            proven = prove_conversion(source, output, view.watch().progress)
    _report(source, output, record, proven, as_json)


def _report(
    source: Path, output: Path, record: "ConversionRecord", proven: int | None, as_json: bool
) -> None:
    from kit.units import format_gib
    from kit.weights.convert.convert import nonfinite_text
    from kit.weights.convert.support_files import CODE, code_of

    if as_json:
        content = {"output": str(output), "proven_tensors": proven, **asdict(record)}
        print(json.dumps(content, ensure_ascii=False, indent=2))
    else:
        size = format_gib(sum(record.files.values()))
        print(f"{output} holds the model: {size} in {record.precision}")
        if code_of(record) is CODE["spark"]:
            print(f"serve it: {command('kit up --model', output)}")
        else:
            print(f"open it with transformers: from_pretrained({str(output)!r})")
    if proven is not None:
        print(f"proven: all {proven} tensors equal those of {source}", file=sys.stderr)
    if record.nonfinite:
        print(f"warning: {nonfinite_text(record.nonfinite)}", file=sys.stderr)
