"""`kit memory plan`."""

from collections.abc import Mapping

from kit.cli.memory import plan_options as options
from kit.errors import UsageError
from kit.settings import Settings
from kit.units import parse_size

_DTYPE_BYTES = {"auto": None, "float32": 4, "bfloat16": 2, "float16": 2}


def plan(
    target: options.Target = None,
    precision: options.PrecisionOption = None,
    context: options.Context = None,
    max_sequences: options.MaxSequences = None,
    device: options.DeviceOption = "auto",
    engine: options.EngineOption = "native",
    dtype: options.DType = "auto",
    fit: options.Fit = None,
    verbose: options.Verbose = False,
    max_vram: options.MaxVram = None,
    max_ram: options.MaxRam = None,
    layers: options.Layers = None,
    hidden: options.Hidden = None,
    ffn: options.Ffn = None,
    vocab: options.Vocab = None,
    heads: options.Heads = None,
    max_context: options.MaxContext = None,
    window: options.Window = None,
    as_json: options.AsJson = False,
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
    if fit is None:
        show_plan(question)
    else:
        show_fit(question, fit, verbose=verbose)


def require_one_shape(target: str | None, numbers: Mapping[str, int | None]) -> None:
    """Raises UsageError where a model is named and described, too."""
    if target is not None and any(value is not None for value in numbers.values()):
        raise UsageError(
            f"the shape of {target} is known", hint="name a model, or describe another one"
        )
