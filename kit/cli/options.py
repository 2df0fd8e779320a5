"""Every option that more than one command has, and what those of `kit up` mean together."""

import os
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import typer

from kit import units
from kit.settings import Settings, instance_name

if TYPE_CHECKING:
    from kit.proof.assertion import Proof
    from kit.service.intent import UpOptions


class Device(StrEnum):
    """Where the model runs; auto is the GPU where there is one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Engine(StrEnum):
    """What computes: the kit's own engine, or upstream's code."""

    NATIVE = "native"
    MEGATRON = "megatron"


class RuntimeChoice(StrEnum):
    """What runs the server; auto is a container where a GPU and Docker are found."""

    AUTO = "auto"
    LOCAL = "local"
    CONTAINER = "container"


Model = typer.Option(
    envvar=["KIT_MODEL", "KIT_MODEL_DIR"],
    metavar="demo|NAME|DIR",
    help="What to serve: the built-in demo, fetched weights by their name, or a directory.",
    show_default="the fetched weights; the demo where there is no GPU",
)
Name = typer.Option(envvar="KIT_MODEL_NAME", metavar="NAME", help="The model's name in the API.")
Context = typer.Option(
    "--context",
    envvar="KIT_CONTEXT",
    min=2,
    metavar="TOKENS",
    help="Prompt and answer together, in tokens.",
)
MaxSequences = typer.Option(
    envvar="KIT_MAX_SEQUENCES", min=1, metavar="N", help="Answers generated at once; more wait."
)
DeviceOption = typer.Option(envvar="KIT_DEVICE", help="Where the model runs.")
EngineOption = typer.Option(
    envvar="KIT_ENGINE", help="megatron: upstream's own code, rewritten, and its checkpoint as DIR."
)
Host = typer.Option(envvar="KIT_HOST", metavar="ADDRESS", help="Address to bind.")
Port = typer.Option(envvar="KIT_PORT", min=1, max=65535, metavar="PORT", help="Port to bind.")
MaxRam = typer.Option(
    envvar="KIT_MAX_RAM",
    metavar="SIZE",
    help="Budget of the host RAM peak, such as 4GiB.",
    show_default="the plan and a quarter",
)
MaxVram = typer.Option(envvar="KIT_MAX_VRAM", metavar="SIZE", help="Budget of the VRAM peak.")
Runtime = typer.Option(
    envvar="KIT_RUNTIME", help="What runs the server; auto: a container on a GPU with Docker."
)
Image = typer.Option(
    envvar="KIT_IMAGE",
    metavar="NAME",
    help="The container's image, pulled where it is not here.",
    show_default="built from this checkout",
)
Timeout = typer.Option(min=1, metavar="SECONDS", help="How long to wait until it is ready.")
Preflight = typer.Option(
    help="Ask the doctor first, and refuse to start what cannot run here or does not fit."
)
Exercise = typer.Option(
    help="Fill the whole context once it answers, so that the real peak is held; at most 2 minutes."
)


def _set_instance(name: str | None) -> str | None:
    """Into the environment, where the settings and the runtimes look for it."""
    if name is not None:
        os.environ["KIT_INSTANCE"] = name
        instance_name(os.environ)
    return name


Instance = typer.Option(
    envvar="KIT_INSTANCE",
    metavar="NAME",
    callback=_set_instance,
    is_eager=True,
    help="Which of several services on this machine; each has a port of its own.",
    show_default="the only one",
)
Json = typer.Option("--json", help="One JSON object on stdout.")
Png = typer.Option("--png", metavar="FILE", help="Draw the timeline as a picture.")
Html = typer.Option("--html", metavar="FILE", help="Draw it as a page that needs nothing else.")
Overwrite = typer.Option("--overwrite", help="Replace an existing OUTPUT.")


def options_of(
    settings: Settings, max_ram: str | None, max_vram: str, proof: "Proof", **given: Any
) -> "UpOptions":
    """The options as `kit up` understands them; sizes and choices are still text in ``given``.

    Raises:
        UsageError: a size cannot be understood.
    """
    from kit.service.intent import UpOptions

    budgeted = replace(
        settings,
        max_ram_bytes=units.parse_size(max_ram) if max_ram else None,
        max_vram_bytes=units.parse_size(max_vram),
    )
    plain: dict[str, Any] = {
        name: str(value) if isinstance(value, StrEnum) else value for name, value in given.items()
    }
    return UpOptions(settings=budgeted, proof=proof, **plain)
