"""`kit up`."""

from dataclasses import replace
from enum import StrEnum
from typing import Annotated

import typer

from kit import units
from kit.cli.wiring import wiring
from kit.settings import Settings


class Device(StrEnum):
    """Where the model runs; auto is the GPU where there is one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class RuntimeChoice(StrEnum):
    """What runs the server; auto is a container where a GPU and Docker are found."""

    AUTO = "auto"
    LOCAL = "local"
    CONTAINER = "container"


_Model = typer.Option(
    envvar="KIT_MODEL",
    metavar="demo|DIR",
    help="What to serve: the built-in demo, or a converted directory.",
    show_default="demo where there is no GPU",
)
_Name = typer.Option(metavar="NAME", help="The model's name in the API.")
_Context = typer.Option(
    "--context", min=2, metavar="TOKENS", help="Prompt and answer together, in tokens."
)
_MaxSequences = typer.Option(min=1, metavar="N", help="Answers generated at once; more wait.")
_Device = typer.Option(help="Where the model runs.")
_Host = typer.Option(envvar="KIT_HOST", metavar="ADDRESS", help="Address to bind.")
_Port = typer.Option(envvar="KIT_PORT", min=1, max=65535, metavar="PORT", help="Port to bind.")
_MaxRam = typer.Option(
    envvar="KIT_MAX_RAM",
    metavar="SIZE",
    help="Budget of the host RAM peak, such as 4GiB.",
    show_default="the plan and a quarter",
)
_MaxVram = typer.Option(envvar="KIT_MAX_VRAM", metavar="SIZE", help="Budget of the VRAM peak.")
_Runtime = typer.Option(help="What runs the server.")
_Timeout = typer.Option(min=1, metavar="SECONDS", help="How long to wait until it is ready.")
_Preflight = typer.Option(help="Refuse to start what free memory cannot hold.")
_Json = typer.Option("--json", help="One JSON object on stdout.")


def up(
    context: typer.Context,
    model: Annotated[str | None, _Model] = None,
    name: Annotated[str | None, _Name] = None,
    context_length: Annotated[int | None, _Context] = None,
    max_sequences: Annotated[int | None, _MaxSequences] = None,
    device: Annotated[Device, _Device] = Device.AUTO,
    host: Annotated[str, _Host] = Settings.host,
    port: Annotated[int, _Port] = Settings.port,
    max_ram: Annotated[str | None, _MaxRam] = None,
    max_vram: Annotated[str, _MaxVram] = "30GiB",
    runtime: Annotated[RuntimeChoice, _Runtime] = RuntimeChoice.AUTO,
    timeout: Annotated[float, _Timeout] = 600,
    preflight: Annotated[bool, _Preflight] = True,
    as_json: Annotated[bool, _Json] = False,
) -> None:
    """Serve a model inside a measured memory budget.

    Starts an OpenAI-compatible server, waits until it is ready, asks one question, and
    holds the peak of host RAM and VRAM against the budget. Run again, it changes nothing that
    already runs as asked.
    """
    from kit.cli import up_report
    from kit.cli.terminal import Terminal
    from kit.memory.hold import require
    from kit.stack.intent import UpOptions
    from kit.stack.up import up as start

    settings = replace(
        Settings.from_environ(),
        host=host,
        port=port,
        max_ram_bytes=units.parse_size(max_ram) if max_ram else None,
        max_vram_bytes=units.parse_size(max_vram),
    )
    options = UpOptions(
        settings=settings,
        model=model,
        name=name,
        context=context_length,
        max_sequences=max_sequences,
        device=device.value,
        runtime=runtime.value,
        timeout_seconds=timeout,
        preflight=preflight,
    )
    with Terminal() as terminal:
        report = start(options, wiring(context).runtimes(settings), terminal)
    (up_report.print_json if as_json else up_report.print_text)(report)
    require(report.verdicts)
