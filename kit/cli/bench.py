"""`kit bench`."""

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kit.errors import UsageError

if TYPE_CHECKING:
    from kit.bench.loaders import Comparison

app = typer.Typer(
    help="Measure on this machine, side by side.", no_args_is_help=True, rich_markup_mode=None
)


@app.callback()
def _group() -> None:
    pass


@app.command(short_help="Load as upstream, the published fix, and the kit do.")
def loaders(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A folder in upstream's format, such as what kit weights fetch leaves.",
            show_default="with --simulate the published 13B, which need not be here",
        ),
    ] = None,
    upstream: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Fetch upstream from here, if it is not there yet."),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Where to load; auto: the GPU if any.")
    ] = "auto",
    precision: Annotated[
        Literal["bf16", "fp32"], typer.Option(help="Of the loaded weights.")
    ] = "bf16",
    rounds: Annotated[int, typer.Option(min=1, help="Times to load with each.")] = 3,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write a receipt there.")
    ] = None,
    png: Annotated[
        Path | None, typer.Option("--png", metavar="FILE", help="Draw a picture there.")
    ] = None,
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate", help="Load on a GPU that is not there, without data: memory only."
        ),
    ] = False,
) -> None:
    """Load one checkpoint as upstream does, as the published fix does, and as the kit does.

    Every load is a process of its own on a cold page cache; rounds are interleaved. Prints a
    Markdown table of time and peak memory. The checkpoint is converted once for the native engine,
    in a hidden folder beside its files, which is removed again.
    """
    from kit.runtime.packages import require_native_packages

    require_native_packages()
    if simulate:
        print(_simulated(checkpoint, upstream, precision))
        return
    if checkpoint is None:
        raise UsageError("there is no CHECKPOINT to load", hint="name its folder, or --simulate")
    from kit.bench.loaders import table, write_picture, write_receipt

    found = _compare(checkpoint, upstream, device, precision, rounds)
    print(table(found))
    if json_file:
        write_receipt(found, json_file)
    if png:
        write_picture(found, png)


def _simulated(
    checkpoint: Path | None, upstream: str | None, precision: Literal["bf16", "fp32"]
) -> str:
    """The table of loading as ``kit memory simulate`` has it; the shortest context is served."""
    from kit.proof.simulate.report import loading_table
    from kit.proof.simulate.run import ENGINES, Job, make_trees, simulate_all
    from kit.runtime.packages import require_megatron_packages
    from kit.settings import Settings
    from kit.upstream.source import fetch
    from kit.weights.catalogue import read_catalogue
    from kit.weights.planned import find_planned

    require_megatron_packages()
    settings = Settings.from_environ()
    if upstream:
        fetch(settings, upstream, _say)
    catalogue = read_catalogue(settings.weights_catalogue)
    target = None if checkpoint is None else str(checkpoint)
    model = find_planned(target, catalogue, settings.data_dir).architecture
    if model is None:
        raise UsageError(
            f"{checkpoint} is converted already", hint="name a checkpoint in upstream's format"
        )
    with tempfile.TemporaryDirectory() as folder:
        trees = make_trees(ENGINES, Path(folder))
        jobs = [
            Job(engine, model, precision, 16, 1, str(trees[engine]) if engine in trees else None)
            for engine in ENGINES
        ]
        return f"simulated, not measured:\n\n{loading_table(simulate_all(jobs))}"


def _compare(
    checkpoint: Path,
    upstream: str | None,
    device: Literal["auto", "cpu", "cuda"],
    precision: Literal["bf16", "fp32"],
    rounds: int,
) -> "Comparison":
    import torch

    from kit.bench.loaders import Comparison, Sources, compare_loaders, make_trees
    from kit.settings import Settings, bundled
    from kit.upstream.source import fetch
    from kit.upstream.tree import pinned
    from kit.weights.convert.convert import convert_checkpoint

    settings = Settings.from_environ()
    if upstream:
        fetch(settings, upstream, _say)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    with (
        tempfile.TemporaryDirectory() as folder,
        # On the checkpoint's own disk, so that all loaders read the same one.
        tempfile.TemporaryDirectory(prefix=".bench-", dir=checkpoint) as beside,
    ):
        trees, digests = make_trees(settings, Path(folder))
        converted = Path(beside) / "converted"
        begin = time.monotonic()
        # A conversion wants a tokenizer; this one is never served, so any will do.
        tokenizer = bundled("demo") / "tokenizer" / "tokenizer.model"
        convert_checkpoint(checkpoint, converted, precision=precision, tokenizer=tokenizer)
        seconds = time.monotonic() - begin
        _say(f"converted in {seconds:.1f} s, which the native engine needs once")
        runs = compare_loaders(
            Sources(checkpoint, converted, trees),
            device=device,
            dtype="bfloat16" if precision == "bf16" else "float32",
            rounds=rounds,
            on_run=lambda run: _say(f"{run.loader}: {run.seconds:.1f} s"),
        )
    commit = pinned(settings).commit
    return Comparison(runs, checkpoint, device, precision, commit, digests, seconds)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
