"""`kit memory simulate`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kit.cli import options as option
from kit.cli.memory.plan import (
    Context,
    Ffn,
    Heads,
    Hidden,
    Layers,
    MaxContext,
    MaxSequences,
    PrecisionOption,
    Target,
    Vocab,
    Window,
)
from kit.errors import EnvironmentNotReady

if TYPE_CHECKING:
    from kit.memory.plan.line import Engine
    from kit.memory.plan.shape import Architecture, Precision
    from kit.proof.simulate.run import Job, Simulated
    from kit.weights.planned import Planned

EngineOption = Annotated[
    Literal["native", "megatron", "stock", "cpu-first"] | None,
    typer.Option(help="One of them.", show_default="all that know the precision"),
]
Picture = Annotated[
    Path | None,
    typer.Option("--picture", metavar="FILE", help="Draw the timelines, as .svg or .png."),
]


def simulate(
    target: Target = None,
    engine: EngineOption = None,
    precision: PrecisionOption = None,
    context: Context = None,
    max_sequences: MaxSequences = None,
    picture: Picture = None,
    layers: Layers = None,
    hidden: Hidden = None,
    ffn: Ffn = None,
    vocab: Vocab = None,
    heads: Heads = None,
    max_context: MaxContext = None,
    window: Window = None,
    as_json: Annotated[bool, option.Json] = False,
) -> None:
    """Run the real code of serving MODEL on tensors without data, and count every byte.

    Upstream's own code and the kit's are run at full size: built, loaded, asked until the context
    is full. It needs no weights, no GPU and no memory of that size, and takes less than a minute.
    Nothing of it is measured: what CUDA and the libraries hold is the plan's figure.
    """
    import tempfile

    from kit.cli.memory.plan import require_one_shape
    from kit.cli.render import print_record
    from kit.proof.simulate.picture import write_picture
    from kit.proof.simulate.report import record, table
    from kit.proof.simulate.run import simulate_all
    from kit.runtime.packages import require_megatron_packages, require_native_packages
    from kit.settings import Settings
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
    planned = described(find_planned(target, catalogue, settings.data_dir, precision), numbers)
    engines = _engines(engine, precision, max_sequences)
    require_native_packages()
    if engines != ("native",):
        require_megatron_packages()
    with tempfile.TemporaryDirectory(prefix="kit-upstream-") as folder:
        jobs = _jobs(planned, engines, precision, context, max_sequences, Path(folder))
        found = simulate_all(jobs)
    if picture is not None:
        write_picture(found, settings.max_vram_bytes, picture)
    if as_json:
        print_record(record(found))
    else:
        _print(planned.name, found, table(found))


def _engines(
    engine: "Engine | None", precision: "Precision | None", max_sequences: int | None
) -> "tuple[Engine, ...]":
    from kit.proof.simulate.run import ENGINES

    if engine is not None:
        return (engine,)
    only_native = precision in ("int8", "int4") or max_sequences not in (None, 1)
    return ("native",) if only_native else ENGINES


def _jobs(
    planned: "Planned",
    engines: "tuple[Engine, ...]",
    precision: "Precision | None",
    context: int | None,
    max_sequences: int | None,
    folder: Path,
) -> "list[Job]":
    from kit.memory.plan.fit import serving_limits
    from kit.proof.simulate.run import Job, make_trees

    try:
        trees = make_trees(engines, folder)
    except EnvironmentNotReady as missing:  # upstream: what needs none of it is to be had
        if "native" not in engines:
            raise
        print(f"only the native engine: {missing.message}; {missing.hint}", file=sys.stderr)
        engines, trees = ("native",), {}
    shape = planned.shape(precision)
    jobs = []
    for engine in engines:
        sequences = max_sequences or (None if engine == "native" and len(engines) == 1 else 1)
        limits = serving_limits(shape, context, sequences)
        model, stored = _architecture(planned), precision or shape.precision
        tree = trees.get(engine)
        jobs.append(Job(engine, model, stored, *limits, None if tree is None else str(tree)))  # type: ignore[arg-type]
    return jobs


def _architecture(planned: "Planned") -> "Architecture":
    from kit.checkpoint.layout import Dimensions
    from kit.memory.plan.shape import Architecture

    if planned.architecture is not None:
        return planned.architecture
    shape = planned.converted
    assert shape is not None  # noqa: S101  (it has one or the other)
    dimensions = Dimensions(shape.layers, shape.hidden, shape.intermediate, shape.vocabulary)
    return Architecture(dimensions, shape.max_context, shape.window, shape.attention_heads)


def _print(name: str, found: "list[Simulated]", table: str) -> None:
    job = found[0].job
    print(
        f"{name} in {job.precision}, {job.context} tokens of context, {job.max_sequences} at once"
    )
    print("simulated / planned, GiB\n")
    print(table)
    for each in found:
        for line, count in each.reads.items():
            print(f"\n{each.job.engine}: a decode step waits for the GPU in {line}, {count} times")
