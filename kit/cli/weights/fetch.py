"""`kit weights fetch`."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kit.cli.weights.next_step import next_step
from kit.commands import command

if TYPE_CHECKING:
    from kit.settings import Settings
    from kit.weights.fetch import Fetched
    from kit.weights.record import Precision


Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="As kit weights list shows, or hf:OWNER/NAME on Hugging Face."
    ),
]
Source = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Fetch from here.", show_default="the first that answers"),
]
Mirror = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Fetch from this https: or file: address instead.",
        show_default="KIT_WEIGHTS_MIRROR",
    ),
]
Accept = Annotated[bool, typer.Option("--accept-license", help="Accept the weights' licence.")]
To = Annotated[Path | None, typer.Option(metavar="DIR", help="The folder for the files.")]
Convert = Annotated[bool, typer.Option("--convert", help="Go on with the conversion.")]
ToPrecision = Annotated[
    Literal["auto", "bf16", "fp32", "int8", "int4"],
    typer.Option(help="To convert to and to plan for; auto: the most bits that fit the GPU."),
]
GpuMemory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Memory of the GPU that it is meant for, such as 24GiB.",
        show_default="this machine's",
    ),
]
Connections = Annotated[int, typer.Option(min=1, max=32, metavar="N", help="Ranges at once.")]
NoPreflight = Annotated[
    bool, typer.Option("--no-preflight", help="Do not check disk, RAM and VRAM first.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def fetch(
    name: Name,
    source: Source = None,
    mirror: Mirror = None,
    accept_license: Accept = False,
    to: To = None,
    convert: Convert = False,
    precision: ToPrecision = "auto",
    gpu_memory: GpuMemory = None,
    connections: Connections = 4,
    no_preflight: NoPreflight = False,
    as_json: AsJson = False,
) -> None:
    """Fetch weights: licence, room, download, check. Interrupted, the same command goes on."""
    from kit.cli.consent import asker
    from kit.cli.transfer import TransferView
    from kit.doctor.preflight import FETCH, require
    from kit.doctor.request import Request
    from kit.settings import Settings
    from kit.units import parse_size
    from kit.weights.obtain import Wish, fitting_precision, obtain
    from kit.weights.remote import Tuning

    settings = Settings.from_environ()
    room_bytes = parse_size(gpu_memory) if gpu_memory else None
    chosen = fitting_precision(name, settings, room_bytes) if precision == "auto" else precision
    wish = Wish(
        name=name,
        source=source,
        mirror=mirror or (None if source else settings.weights_mirror),
        directory=to.expanduser().absolute() if to else None,
        precision=chosen,
        gpu_memory_bytes=room_bytes,
        preflight=not no_preflight,
        tuning=Tuning(connections=connections),
    )
    given = {"--source": source, "--mirror": mirror, "--to": to, "--gpu-memory": gpu_memory}
    given |= {"--precision": None if precision == "auto" else precision}
    again = [word for flag, value in given.items() if value for word in (flag, str(value))]
    again += [flag for flag, on in (("--convert", convert), ("--no-preflight", no_preflight)) if on]
    ask = asker(accept_license, command("kit weights fetch", name, *again))
    with TransferView(f"fetching {name}") as view:
        if precision == "auto" and chosen != "bf16":
            view.say(f"precision {chosen}: bf16 is more than the GPU holds; --precision decides")
        if wish.preflight:
            for warning in require(FETCH, Request(settings)):
                view.say(f"warning: {warning}")
        fetched = obtain(wish, settings, os.environ, ask, view.watch())
    made = _convert(fetched, settings, chosen) if convert else None
    if as_json:
        print(json.dumps(_as_json(fetched, made), ensure_ascii=False, indent=2))
    else:
        _report(fetched, made, settings, chosen)


def _convert(fetched: "Fetched", settings: "Settings", precision: "Precision") -> Path | None:
    """Convert the set's checkpoint; None where there is nothing to convert."""
    from kit.cli.transfer import TransferView
    from kit.weights.catalogue import read_catalogue
    from kit.weights.convert import convert_checkpoint
    from kit.weights.folder import converted_dir

    weights = read_catalogue(settings.weights_catalogue).weights.get(fetched.name)
    if weights is None or weights.checkpoint is None:
        return None
    output = converted_dir(settings.data_dir, fetched.name, precision)
    with TransferView(f"converting {fetched.name}") as view:
        convert_checkpoint(
            fetched.directory / weights.checkpoint,
            output,
            precision=precision,
            known={
                fetched.directory / file: locked.sha256 for file, locked in fetched.files.items()
            }.get,
            progress=view.watch().progress,
        )
    return output


def _as_json(fetched: "Fetched", made: Path | None) -> dict[str, Any]:
    from kit.lock import locked_entry

    return {
        "name": fetched.name,
        "directory": str(fetched.directory),
        "source": fetched.source,
        "files": {file: locked_entry(locked) for file, locked in fetched.files.items()},
        "converted": str(made) if made else None,
    }


def _report(
    fetched: "Fetched", made: Path | None, settings: "Settings", precision: "Precision"
) -> None:
    from kit.units import format_gib

    size = format_gib(sum(locked.size_bytes for locked in fetched.files.values()))
    origin = f"from {fetched.source}" if fetched.source else "there already"
    print(f"{fetched.directory} holds {fetched.name}: {size}, checked, {origin}")
    if made is not None:
        print(f"{made} holds the model in {precision}")
        print(f"serve it: {command('kit up --model', made)}")
    elif step := next_step(fetched.name, fetched.directory, fetched.files, settings, precision):
        print(step)
