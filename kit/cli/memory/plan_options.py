"""The options of `kit memory plan`."""

from typing import Annotated, Literal

import typer

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
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
