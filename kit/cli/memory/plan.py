"""`kit memory plan` and `kit memory cards`."""

from collections.abc import Mapping
from typing import Annotated, Literal

import typer

from kit.cli import options as option
from kit.cli.render import print_record, print_table
from kit.errors import UsageError
from kit.settings import Settings
from kit.units import parse_size

Target = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="A converted directory, a checkpoint, or a name that kit weights list shows.",
        show_default="the published 13B",
    ),
]
PrecisionOption = Annotated[
    Literal["bf16", "fp32", "int8", "int4"] | None,
    typer.Option(
        help="What a checkpoint is converted to.", show_default="bf16; with --fit the best"
    ),
]
Context = Annotated[
    int | None, typer.Option(min=2, metavar="TOKENS", help="Tokens of prompt and answer together.")
]
MaxSequences = Annotated[int | None, typer.Option(min=1, metavar="N", help="Answers at once.")]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="Where it runs; auto: the GPU if any.")
]
EngineOption = Annotated[
    Literal["native", "megatron", "cpu-first", "stock"],
    typer.Option(
        help="megatron: upstream's code, rewritten; cpu-first: with the published fix only; "
        "stock: as it is."
    ),
]
DType = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option(help="Of the numbers while they serve, as kit serve takes it."),
]
Fit = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="The inverse: the best that fits 24GiB, or 'free' for what is free here.",
    ),
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="With --fit: every line of the best one's plan.")
]
MaxVram = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Exit with 3 if it takes more VRAM than that.")
]
MaxRam = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Exit with 3 if it takes more host RAM.")
]
Layers = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Of another model: its layers.")
]
Hidden = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Of another model: its hidden size.")
]
Ffn = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Of another model: its MLP's width, after gating."),
]
Vocab = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Of another model: its vocabulary.")
]
Heads = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Of another model: its attention heads.")
]
MaxContext = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Of another model: the tokens that it was made for."),
]
Window = Annotated[
    int | None,
    typer.Option(min=0, metavar="N", help="Of another model: its local window; 0: none."),
]


_DTYPE_BYTES = {"auto": None, "float32": 4, "bfloat16": 2, "float16": 2}


def plan(
    target: Target = None,
    precision: PrecisionOption = None,
    context: Context = None,
    max_sequences: MaxSequences = None,
    device: DeviceOption = "auto",
    engine: EngineOption = "native",
    dtype: DType = "auto",
    fit: Fit = None,
    verbose: Verbose = False,
    max_vram: MaxVram = None,
    max_ram: MaxRam = None,
    layers: Layers = None,
    hidden: Hidden = None,
    ffn: Ffn = None,
    vocab: Vocab = None,
    heads: Heads = None,
    max_context: MaxContext = None,
    window: Window = None,
    as_json: Annotated[bool, option.Json] = False,
) -> None:
    """Show what serving MODEL takes, line by line, and how each figure is known.

    Nothing is downloaded, converted or started. With --fit the other way round: the best precision,
    then the longest context, then the most answers at once that fit.
    """
    from kit.cli.memory.plan_answers import show_fit, show_plan
    from kit.cli.memory.plan_question import Question, count_shards, find_gpus
    from kit.weights.catalogue import read_catalogue
    from kit.weights.planned import described, find_planned

    numbers = {
        "layers": layers,
        "hidden": hidden,
        "ffn": ffn,
        "vocab": vocab,
        "heads": heads,
        "max_context": max_context,
        "window": window,
    }
    require_one_shape(target, numbers)
    settings = Settings.from_environ()
    catalogue = read_catalogue(settings.weights_catalogue)
    question = Question(
        target=target,
        named=target is None or target in catalogue.weights,
        planned=described(find_planned(target, catalogue, settings.data_dir, precision), numbers),
        precision=precision,
        context=context,
        max_sequences=max_sequences,
        wanted_device=device,
        engine=engine,
        ranks=1 if engine == "native" else count_shards(target, catalogue),
        dtype_bytes=_DTYPE_BYTES[dtype],
        gpus=find_gpus(),
        max_vram_bytes=parse_size(max_vram) if max_vram else None,
        max_ram_bytes=parse_size(max_ram) if max_ram else None,
        as_json=as_json,
    )
    show_plan(question) if fit is None else show_fit(question, fit, verbose=verbose)


def require_one_shape(target: str | None, numbers: Mapping[str, int | None]) -> None:
    """Raises UsageError where a model is named and described, too."""
    if target is not None and any(value is not None for value in numbers.values()):
        raise UsageError(
            f"the shape of {target} is known", hint="name a model, or describe another one"
        )


def cards(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="As the table of docs/memory.md.")
    ] = False,
    as_json: Annotated[bool, option.Json] = False,
) -> None:
    """Show what common GPUs serve iFlytekSpark-13B with: tokens of context x answers at once."""
    from rich.console import Console
    from rich.table import Table

    from kit.memory.plan.fit import PRECISIONS, card_options, describe, markdown_table, record
    from kit.units import format_gib
    from kit.weights.catalogue import read_catalogue
    from kit.weights.planned import published

    rows = card_options(published(read_catalogue()))
    if as_json:
        print_record({"cards": [record(row) for row in rows]})
        return
    if markdown:
        print(markdown_table(rows))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("GPU", "usable", *PRECISIONS):
        table.add_column(column, justify="left" if column == "GPU" else "right", no_wrap=True)
    for row in rows:
        cells = (describe(row.best.get(precision)) for precision in PRECISIONS)
        table.add_row(row.card.name, format_gib(row.card.usable_bytes), *cells)
    print_table(Console(highlight=False, markup=False), table)
