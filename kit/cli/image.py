"""`kit image`: the container images."""

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kit.cli import options as option
from kit.cli.render import print_record
from kit.units import format_gib

if TYPE_CHECKING:
    from kit.containers.image import BuildOptions
    from kit.containers.wanted_image import ImageInfo

app = typer.Typer(
    help="Build the container images, and look at them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

TargetOption = Annotated[
    Literal["cpu", "cuda"] | None,
    typer.Option("--target", help="Without CUDA or with it.", show_default="cuda on a GPU server"),
]
Tag = Annotated[
    str | None,
    typer.Option(
        "--tag",
        metavar="NAME",
        help="Its name.",
        show_default="version, target, digest of the sources",
    ),
]
BaseImage = Annotated[
    str | None,
    typer.Option(
        envvar="KIT_BASE_IMAGE", metavar="NAME", help="A Debian with Python 3.11 or 3.12."
    ),
]


@app.command()
def build(
    target: TargetOption = None,
    tag: Tag = None,
    base_image: BaseImage = None,
    ca_bundle: Annotated[
        Path | None,
        typer.Option(
            envvar="KIT_CA_BUNDLE",
            metavar="FILE",
            help="PEM file, if a TLS proxy signs what comes in.",
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            envvar="KIT_BUILD_NETWORK", metavar="NAME", help="Docker network, such as host."
        ),
    ] = None,
    apt_mirror: Annotated[
        str | None,
        typer.Option(
            envvar="KIT_APT_MIRROR", metavar="URL", help="Debian mirror to take git from."
        ),
    ] = None,
) -> None:
    """Build the image out of this checkout.

    Takes Python's packages from ./wheelhouse and upstream's repository from ./upstream where they
    are there, else from pip's index and from gitee. Prints the image's tag and size.
    """
    from kit.containers.image import checkout
    from kit.containers.wanted_image import build as run
    from kit.containers.wanted_image import inspect

    options = replace(
        _options(target),
        tag=tag,
        base_image=base_image,
        ca_bundle=ca_bundle.expanduser().absolute() if ca_bundle else None,
        network=network,
        apt_mirror=apt_mirror,
    )
    built = run(options, checkout(), lambda line: print(line, file=sys.stderr))
    _print(inspect(built))


@app.command()
def info(
    image: Annotated[
        str | None, typer.Argument(metavar="IMAGE", show_default="what this checkout builds")
    ] = None,
    target: TargetOption = None,
    base_image: BaseImage = None,
    as_json: Annotated[bool, option.Json] = False,
) -> None:
    """Show an image's size, layer by layer, and its labels."""
    from kit.containers.image import checkout, image_tag
    from kit.containers.wanted_image import inspect

    if image is None:
        image = image_tag(replace(_options(target), base_image=base_image), checkout())
    found = inspect(image)
    if as_json:
        print_record(asdict(found))
    else:
        _print(found)


@app.command()
def wheelhouse(
    target: TargetOption = None,
    python: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="Of the base image.", show_default="by its name"),
    ] = None,
    base_image: BaseImage = None,
) -> None:
    """Fetch every Python package of an image into ./wheelhouse, to build it without an index.

    pip's own settings say from where (PIP_INDEX_URL, PIP_FIND_LINKS).
    """
    from kit.containers.image import checkout
    from kit.containers.wheelhouse import default_python, fill

    root = checkout()
    python = python or default_python(root / "docker/Dockerfile", base_image)
    folder = fill(_options(target).target, python, root, lambda line: print(line, file=sys.stderr))
    files = [file for file in folder.iterdir() if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    print(f"{folder} holds {len(files)} packages, {format_gib(size)}")


def _options(target: Literal["cpu", "cuda"] | None) -> "BuildOptions":
    from kit.containers.image import BuildOptions
    from kit.memory.probes import nvml
    from kit.memory.unavailable import Unavailable

    if target is None:
        found = nvml.gpus()
        target = "cpu" if isinstance(found, Unavailable) or not found else "cuda"
    return BuildOptions.from_environ(target)


def _print(info: "ImageInfo") -> None:
    print(f"{info.tag}\n  size    {format_gib(info.size_bytes)}, unpacked")
    for layer in info.layers:
        print(f"  {format_gib(layer.size_bytes):>10}  {layer.instruction}")
    for name, value in sorted(info.labels.items()):
        print(f"  {name}  {value}")
