"""kit serve: the model behind the OpenAI-compatible API, in the foreground."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kit import units
from kit.errors import EnvironmentNotReady, UsageError
from kit.memory.hold import Budget
from kit.settings import Settings
from kit.stack.packages import require_megatron_packages, require_native_packages

if TYPE_CHECKING:
    from kit.serve.model import ModelSource


def serve(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="DIR|NAME",
            readable=False,  # looked at below, with a hint
            help="A converted directory, for the megatron engine upstream's own checkpoint; or "
            "the name of fetched weights.",
        ),
    ],
    engine: Annotated[
        Literal["native", "megatron"],
        typer.Option(envvar="KIT_ENGINE", help="megatron: upstream's own code, rewritten."),
    ] = "native",
    host: Annotated[str | None, typer.Option(help="Address to bind.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes a free one.")] = None,
    name: Annotated[
        str | None,
        typer.Option(
            envvar="KIT_MODEL_NAME", help="What clients call the model; else the directory's name."
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(envvar="KIT_CONTEXT", min=2, help="Tokens of prompt and answer together."),
    ] = None,
    max_sequences: Annotated[
        int | None, typer.Option(envvar="KIT_MAX_SEQUENCES", min=1, help="Answers at once.")
    ] = None,
    device: Annotated[
        str, typer.Option(envvar="KIT_DEVICE", help="cpu, cuda, or auto: the GPU if any.")
    ] = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(
            help="Precision of the weights; auto: as they are stored, megatron: bfloat16."
        ),
    ] = "auto",
    tensor_parallel: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Ranks of the megatron engine; else one per shard in DIR."
        ),
    ] = None,
    max_ram: Annotated[
        str | None,
        typer.Option(
            envvar="KIT_MAX_RAM",
            metavar="SIZE",
            help="Budget of the host RAM peak, such as 4GiB; past it, it is not ready any more.",
        ),
    ] = None,
    max_vram: Annotated[
        str | None,
        typer.Option(
            envvar="KIT_MAX_VRAM", metavar="SIZE", help="Budget of the VRAM peak, the same way."
        ),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            envvar="KIT_VERIFY",
            help="Hold converted weights against their record before they are first served.",
        ),
    ] = True,
) -> None:
    """Serve the model in DIR in the foreground until Ctrl-C or SIGTERM."""
    require_native_packages()
    require_readable(model)
    settings = Settings.from_environ()
    budget = Budget(
        units.parse_size(max_ram) if max_ram else None,
        units.parse_size(max_vram) if max_vram else None,
    )
    model = _named(model, settings, engine, device, budget, context, max_sequences)
    if engine == "megatron":
        source = upstream_source(
            settings,
            model,
            name,
            context,
            max_sequences,
            device,
            dtype,
            tensor_parallel,
            budget.max_vram_bytes,
        )
    else:
        if tensor_parallel not in (None, 1):
            raise UsageError(
                "the native engine runs on one GPU", hint="--engine megatron runs on several"
            )
        require_converted(model)
        source = native_source(
            model,
            name,
            context,
            max_sequences,
            device,
            dtype,
            budget.max_vram_bytes,
            settings.state_dir if verify else None,
        )
    from kit.serve.app import AppOptions
    from kit.serve.server import ServerOptions, run

    options = ServerOptions(
        host=settings.host if host is None else host,
        port=settings.port if port is None else port,
        app=AppOptions(api_key=settings.api_key, budget=budget),
    )
    run(source, options)


def _named(
    model: Path,
    settings: Settings,
    engine: Literal["native", "megatron"],
    device: str,
    budget: Budget,
    context: int | None,
    max_sequences: int | None,
) -> Path:
    """The directory that is meant: ``model`` itself, or where the set of that name lies.

    Raises:
        EnvironmentNotReady: it is the name of weights that are not here.
        UsageError: it is the name of something that the engine does not serve.
    """
    if model.exists():
        return model
    from kit.memory import nvml
    from kit.memory.unavailable import Unavailable
    from kit.stack.model import Wish, servable
    from kit.stack.named import fitting

    found = nvml.gpus()
    gpus = () if isinstance(found, Unavailable) else nvml.visible(found, os.environ)
    kind: Literal["cpu", "cuda"] = "cuda" if gpus and device != "cpu" else "cpu"
    fits = fitting(kind, gpus, budget.max_vram_bytes, context, max_sequences)
    wish = Wish(
        str(model),
        settings.data_dir,
        bool(gpus),
        engine,
        catalogue=settings.weights_catalogue,
        fits=fits,
    )
    return servable(str(model), wish)


def require_readable(model_dir: Path) -> None:
    """Return when the directory can be read, or is not there at all.

    Raises:
        EnvironmentNotReady: it may not be read.
    """
    if os.access(model_dir, os.F_OK) and not os.access(model_dir, os.R_OK | os.X_OK):
        raise EnvironmentNotReady(
            f"{model_dir} cannot be read by user {os.getuid()}",
            hint="let everyone read it (chmod -R a+rX), or run as its owner (docker run --user)",
        )


def require_converted(model_dir: Path) -> None:
    """Return when the directory looks like a converted one.

    Raises:
        EnvironmentNotReady: it does not.
    """
    if not (model_dir / "config.json").is_file():
        raise EnvironmentNotReady(
            f"{model_dir} is not a converted directory: it has no config.json",
            hint=f"convert a checkpoint into it: kit weights convert CHECKPOINT {model_dir}",
        )


def upstream_source(
    settings: Settings,
    checkpoint: Path,
    name: str | None,
    context: int | None,
    max_sequences: int | None,
    device: str,
    dtype: Literal["auto", "float32", "bfloat16", "float16"],
    tensor_parallel: int | None,
    max_vram_bytes: int | None = None,
) -> "ModelSource":
    """The checkpoint's model in the megatron engine, which the rewritten upstream tree is.

    Raises:
        EnvironmentNotReady: a package, the tree, or a file of the checkpoint is missing.
    """
    require_megatron_packages()
    from kit.serve.megatron.source import megatron_source
    from kit.upstream.tree import require_rewritten

    return megatron_source(
        checkpoint,
        require_rewritten(settings),
        name=name,
        device=device,
        dtype=dtype,
        context=context,
        max_sequences=max_sequences,
        tensor_parallel=tensor_parallel,
        max_vram_bytes=max_vram_bytes,
    )


def native_source(
    model_dir: Path,
    name: str | None,
    context: int | None,
    max_sequences: int | None,
    device: str,
    dtype: Literal["auto", "float32", "bfloat16", "float16"],
    max_vram_bytes: int | None = None,
    verified_dir: Path | None = None,
) -> "ModelSource":
    """The directory's model in the native engine. Nothing heavy is imported before it is built.

    ``verified_dir`` is where it is remembered that weights are sound; None takes them as they are.
    """
    from kit.serve.defaults import read_defaults
    from kit.serve.engine import Engine
    from kit.serve.model import ModelSource
    from kit.serve.tokenizer import load_tokenizer

    def build_engine() -> Engine:
        from kit.serve.native import NativeEngine
        from kit.weights.untampered import require_untampered

        def check(progress: Callable[[int, int], None]) -> None:
            if verified_dir is not None:
                require_untampered(model_dir, verified_dir, progress)

        return NativeEngine(
            model_dir,
            device=device,
            dtype=dtype,
            context=context,
            max_sequences=max_sequences,
            max_vram_bytes=max_vram_bytes,
            check=check,
        )

    return ModelSource(
        name=name or model_dir.resolve().name,
        engine_name="native",
        build_engine=build_engine,
        load_tokenizer=lambda: load_tokenizer(model_dir),
        read_defaults=lambda: read_defaults(model_dir),
    )
