"""`kit weights fetch` and `kit weights import`."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kit.cli import options as option
from kit.commands import command
from kit.errors import EnvironmentNotReady

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kit.lock import LockedFile
    from kit.settings import Settings
    from kit.weights.convert.record import Precision
    from kit.weights.fetch.fetch import Fetched
    from kit.weights.licence import How, Terms


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
    as_json: Annotated[bool, option.Json] = False,
) -> None:
    """Fetch weights: licence, room, download, check. Interrupted, the same command goes on."""
    from kit.cli.transfer import TransferView
    from kit.doctor.examine import FETCH, require
    from kit.doctor.request import Request
    from kit.settings import Settings
    from kit.units import parse_size
    from kit.weights.fetch.obtain import Wish, fitting_precision, obtain
    from kit.weights.fetch.remote import Tuning

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
    from kit.weights.convert.convert import convert_checkpoint
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


def next_step(
    name: str,
    directory: Path,
    files: "Mapping[str, LockedFile]",
    settings: "Settings",
    precision: "Precision" = "bf16",
) -> str | None:
    """What to do once set ``name`` is in ``directory``; None: it holds no checkpoint."""
    from kit.weights.catalogue import read_catalogue
    from kit.weights.folder import converted_dir
    from kit.weights.listing import conversions_of, find_conversions

    weights = read_catalogue(settings.weights_catalogue).weights.get(name)
    if weights is None or weights.checkpoint is None:
        return None
    output = converted_dir(settings.data_dir, name, precision)
    option = () if precision == "bf16" else ("--precision", precision)
    for made in conversions_of(files.get(weights.checkpoint), find_conversions(settings.data_dir)):
        if made == output:
            return f"{output} holds it in {precision}: {command('kit up --model', output)}"
    checkpoint = directory / weights.checkpoint
    return f"convert it: {command('kit weights convert', checkpoint, output, *option)}"


def asker(accepted: bool, command: str) -> "Callable[[Terms], How]":
    """What ``require_acceptance`` asks with.

    Args:
        accepted: whether the command line says so already.
        command: what to run where nobody can be asked.
    """

    def ask(terms: "Terms") -> "How":
        show(terms)
        if accepted:
            return "option"
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise EnvironmentNotReady(
                f"the licence has not been accepted: {terms.licence.title}",
                hint=f"read it at {terms.licence.url}, then: {command} --accept-license",
            )
        if not typer.confirm("Do you accept it?", default=False, err=True):
            raise EnvironmentNotReady(
                "the licence was not accepted, so nothing was fetched",
                hint=f"questions about it: see {terms.licence.url}",
            )
        return "terminal"

    return ask


def show(terms: "Terms") -> None:
    """Print title, summary and where the text is, on stderr."""
    licence = terms.licence
    again = " (its text has changed since you accepted it)" if terms.earlier else ""
    lines = [f"Licence: {licence.title}{again}", *(f"  - {line}" for line in licence.summary)]
    lines.append(f"  The text: {licence.url}")
    if terms.text_path is not None:
        lines.append(f"  Read from there just now into {terms.text_path}")
    print("\n".join(lines), file=sys.stderr)


def import_(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            readable=False,  # what cannot be read is said by take_in
            help="Files, or folders that hold them.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            "--as", metavar="NAME", help="What they are.", show_default="told by their paths"
        ),
    ] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy large files, even where a hard link would do.")
    ] = False,
    as_json: Annotated[bool, option.Json] = False,
) -> None:
    """Take weights that are on this machine already into the weights folder, checked."""
    from kit.cli.transfer import TransferView
    from kit.lock import locked_entry
    from kit.settings import Settings
    from kit.weights.catalogue import read_catalogue
    from kit.weights.fetch.take_in import take_in

    settings = Settings.from_environ()
    catalogue = read_catalogue(settings.weights_catalogue)
    with TransferView("importing") as view:
        taken = take_in(
            paths, catalogue, settings.data_dir, name=name, link=not copy, watch=view.watch()
        )
    if as_json:
        content = {
            each.name: {
                "directory": str(each.directory),
                "files": {file: locked_entry(locked) for file, locked in each.files.items()},
                "missing": each.missing,
            }
            for each in taken
        }
        print(json.dumps(content, ensure_ascii=False, indent=2))
        return
    for each in taken:
        print(f"{each.directory} holds {each.name}: {', '.join(each.files)}")
        if each.missing:
            print(f"missing: {', '.join(each.missing)}; get them: kit weights fetch {each.name}")
        elif step := next_step(each.name, each.directory, each.files, settings):
            print(step)
