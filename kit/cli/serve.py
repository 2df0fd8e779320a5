"""kit serve: the model behind the OpenAI-compatible API, in the foreground."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kit import units
from kit.errors import KitError, UsageError
from kit.memory.budget import Budget
from kit.runtime.packages import require_megatron_packages, require_native_packages
from kit.settings import Settings

if TYPE_CHECKING:
    from kit.serve.model import ModelSource
    from kit.serve.server import ServerOptions

EngineName = Literal["native", "megatron"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]

_MODEL = typer.Argument(
    metavar="DIR|NAME",
    help="A converted directory, for the megatron engine upstream's own checkpoint; or the name "
    "of fetched weights.",
)
_ENGINE = typer.Option(envvar="KIT_ENGINE", help="megatron: upstream's own code, rewritten.")
_HOST = typer.Option(metavar="ADDRESS", help="Address to bind.")
_PORT = typer.Option(min=0, max=65535, metavar="PORT", help="0 takes a free one.")
_NAME = typer.Option(
    envvar="KIT_MODEL_NAME",
    metavar="NAME",
    help="What clients call the model; else the directory's name.",
)
_CONTEXT = typer.Option(
    envvar="KIT_CONTEXT", min=2, metavar="TOKENS", help="Prompt and answer together, in tokens."
)
_MAX_SEQUENCES = typer.Option(
    envvar="KIT_MAX_SEQUENCES", min=1, metavar="N", help="Answers generated at once; more wait."
)
_DEVICE = typer.Option(envvar="KIT_DEVICE", help="cpu, cuda, or auto: the GPU if any.")
_DTYPE = typer.Option(
    help="Precision of the weights; auto: as they are stored, megatron: bfloat16."
)
_TENSOR_PARALLEL = typer.Option(
    min=1, metavar="N", help="Ranks of the megatron engine; else one per shard in DIR."
)
_MAX_RAM = typer.Option(
    envvar="KIT_MAX_RAM",
    metavar="SIZE",
    help="Budget of host RAM, such as 4GiB; while more is held, it is not ready.",
)
_MAX_VRAM = typer.Option(
    envvar="KIT_MAX_VRAM", metavar="SIZE", help="Budget of VRAM, the same way."
)
_VERIFY = typer.Option(
    envvar="KIT_VERIFY",
    help="Check converted weights against their record before they are first served.",
)


@dataclass(frozen=True)
class Serving:
    """How a model is served, whichever engine does it; None is decided from the model.

    Attributes:
        device: cpu, cuda or auto.
        max_vram_bytes: what torch's pool may grow to; None: no limit.
    """

    name: str | None = None
    context: int | None = None
    max_sequences: int | None = None
    device: str = "auto"
    dtype: Dtype = "auto"
    max_vram_bytes: int | None = None


def serve(
    model: Annotated[str, _MODEL],
    engine: Annotated[EngineName, _ENGINE] = "native",
    host: Annotated[str | None, _HOST] = None,
    port: Annotated[int | None, _PORT] = None,
    name: Annotated[str | None, _NAME] = None,
    context: Annotated[int | None, _CONTEXT] = None,
    max_sequences: Annotated[int | None, _MAX_SEQUENCES] = None,
    device: Annotated[str, _DEVICE] = "auto",
    dtype: Annotated[Dtype, _DTYPE] = "auto",
    tensor_parallel: Annotated[int | None, _TENSOR_PARALLEL] = None,
    max_ram: Annotated[str | None, _MAX_RAM] = None,
    max_vram: Annotated[str | None, _MAX_VRAM] = None,
    verify: Annotated[bool, _VERIFY] = True,
) -> None:
    """Serve a model in the foreground until Ctrl-C or SIGTERM."""
    require_native_packages()
    settings = Settings.from_environ()
    budget = Budget(
        units.parse_size(max_ram) if max_ram else None,
        units.parse_size(max_vram) if max_vram else None,
    )
    serving = Serving(name, context, max_sequences, device, dtype, budget.max_vram_bytes)
    from kit.serve.server import refused, run

    try:
        directory = _directory(model, engine, settings, serving)
        if engine == "megatron":
            source = upstream_source(settings, directory, serving, tensor_parallel)
        elif tensor_parallel not in (None, 1):
            raise UsageError(
                "the native engine runs on one GPU", hint="--engine megatron runs on several"
            )
        else:
            source = native_source(directory, serving, settings.state_dir if verify else None)
    except KitError as error:
        if settings.on_failure != "stay":
            raise
        source = refused(error)
    run(source, server_options(settings, host, port, budget))


def server_options(
    settings: Settings, host: str | None, port: int | None, budget: Budget
) -> "ServerOptions":
    """Where and how to serve, as the settings say; ``host`` and ``port`` win over theirs.

    Raises:
        UsageError: a setting is not one of its words.
    """
    from kit.serve.api.app import AppOptions
    from kit.serve.api.middleware import own_hosts
    from kit.serve.api.neutral import read_unknown
    from kit.serve.budget import read_on_breach
    from kit.serve.server import ServerOptions

    address = settings.host if host is None else host
    return ServerOptions(
        host=address,
        port=settings.port if port is None else port,
        keep_alive_seconds=settings.keep_alive_seconds,
        stays=settings.on_failure == "stay",
        app=AppOptions(
            api_key=settings.api_key,
            budget=budget,
            on_breach=read_on_breach(settings.on_breach),
            max_waiting=settings.max_waiting,
            unknown_parameters=read_unknown(settings.unknown_parameters),
            allow_origins=settings.allow_origins,
            allow_hosts=own_hosts(address, settings.allow_hosts, settings.published_host),
        ),
    )


def _directory(model: str, engine: EngineName, settings: Settings, serving: Serving) -> Path:
    """The directory that is meant: ``model`` itself, or where the set of that name lies.

    Raises:
        EnvironmentNotReady: it is not there, or not what the engine serves.
        UsageError: it is the name of something that the engine does not serve.
    """
    from kit.memory.probes import nvml
    from kit.memory.unavailable import Unavailable
    from kit.service.model import Wish, fitting, require_servable, servable

    found = nvml.gpus()
    gpus = () if isinstance(found, Unavailable) else nvml.visible(found, os.environ)
    kind: Literal["cpu", "cuda"] = "cuda" if gpus and serving.device != "cpu" else "cpu"
    limits = (serving.max_vram_bytes, serving.context, serving.max_sequences)
    wish = Wish(
        model,
        settings.data_dir,
        bool(gpus),
        engine,
        catalogue=settings.weights_catalogue,
        fits=fitting(kind, gpus, *limits),
    )
    directory = servable(model, wish)
    require_servable(directory, engine)
    return directory


def upstream_source(
    settings: Settings, checkpoint: Path, serving: Serving, tensor_parallel: int | None = None
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
        name=serving.name,
        device=serving.device,
        dtype=serving.dtype,
        context=serving.context,
        max_sequences=serving.max_sequences,
        tensor_parallel=tensor_parallel,
        max_vram_bytes=serving.max_vram_bytes,
    )


def native_source(
    model_dir: Path, serving: Serving, verified_dir: Path | None = None
) -> "ModelSource":
    """The directory's model in the native engine. Nothing heavy is imported before it is built.

    ``verified_dir`` is where it is remembered that weights are sound; None takes them as they are.
    """
    from kit.serve.defaults import read_defaults
    from kit.serve.engine import Engine
    from kit.serve.model import ModelSource
    from kit.serve.tokenizer import load_tokenizer

    def build_engine() -> Engine:
        from kit.serve.native.engine import NativeEngine
        from kit.weights.convert.verify import require_untampered

        def check(progress: Callable[[int, int], None]) -> None:
            if verified_dir is not None:
                require_untampered(model_dir, verified_dir, progress)

        return NativeEngine(
            model_dir,
            device=serving.device,
            dtype=serving.dtype,
            context=serving.context,
            max_sequences=serving.max_sequences,
            max_vram_bytes=serving.max_vram_bytes,
            check=check,
        )

    return ModelSource(
        name=serving.name or model_dir.resolve().name,
        engine_name="native",
        build_engine=build_engine,
        load_tokenizer=lambda: load_tokenizer(model_dir),
        read_defaults=lambda: read_defaults(model_dir),
    )
