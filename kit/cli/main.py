"""The `kit` command: its subcommands, and the one place where errors become exit codes."""

import os
import sys
from collections.abc import MutableMapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import kit
from kit.cli import bench, change, doctor, image, memory, serve, service, up, upstream, weights
from kit.cli.doctor import support_bundle
from kit.cli.render import tolerate_any_text
from kit.cli.wiring import Wiring
from kit.errors import EnvironmentNotReady, KitError, UsageError
from kit.settings import bundled, misspelt

FILE_NAME = ".env"
_OURS = ("KIT_", "COMPOSE_PROJECT_NAME")


_EPILOG = """\b
Exit codes:
  0  ok
  1  a finding or a failure; status: nothing runs
  2  wrong usage or setting
  3  the machine lacks something: memory, disk, a free port, weights
  4  integrity: checksum mismatch, damaged file, unsafe pickle
  5  a memory peak passed its budget, or could not be measured
  6  the service did not start, died, or is not ready
130  interrupted
"""

app = typer.Typer(
    name="kit",
    help="Run iFlytekSpark-13B on one affordable GPU, with proof of the memory it takes.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help keeps its options readable at 80 columns
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(short_help="Look at this machine and say what would stop the kit.")(doctor.doctor)
app.command()(up.up)
app.command()(service.down)
app.command(short_help="Start the service again as it is.")(change.restart)
app.command(short_help="Replace the service by another image, model or setting.")(change.upgrade)
app.command(short_help="Go back to the service that ran well before.")(change.rollback)
app.command()(service.status)
app.command()(service.logs)
app.command(short_help="Ask the server whether it is ready.")(service.health)
app.command(short_help="Pack what helps to find a fault.")(support_bundle)
app.command(short_help="Serve a model in the foreground.")(serve.serve)
app.add_typer(weights.app, name="weights")
app.command("pull", hidden=True)(weights.fetch.fetch)
app.add_typer(memory.app, name="memory")
app.add_typer(upstream.app, name="upstream")
app.add_typer(image.app, name="image")
app.add_typer(bench.app, name="bench")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(kit.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


def run(*, server_command: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code.

    ``server_command`` replaces the program that `kit up` starts as the server.
    """
    tolerate_any_text()
    try:
        _settle_environment()
        app(obj=Wiring(server_command))
    except KitError as error:
        _fail(error)
    except PermissionError as error:  # wherever a path leads that was named
        if error.filename is None:
            raise
        _fail(_denied(error.filename))


def _settle_environment() -> None:
    """Settings of .env; one way of counting GPUs; a word on settings that nobody reads."""
    load_dotenv()
    # CUDA counts the fastest card first, NVML and the kit by the bus; nothing has started CUDA yet.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    if gpu := os.environ.get("KIT_GPU"):  # as compose.yaml names it; here it is CUDA's to obey
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", gpu)
    for name, nearest in misspelt(os.environ):
        meant = f"; {nearest} is" if nearest else ""
        print(f"warning: {name} is no setting of the kit{meant}", file=sys.stderr)


def _fail(error: KitError) -> NoReturn:
    print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
    sys.exit(error.exit_code)


def _denied(path: str) -> KitError:
    return EnvironmentNotReady(
        f"{path}: permission denied for user {os.getuid()}",
        hint="give this user access, also to the folders above it, or choose another place",
    )


def load_dotenv(environ: MutableMapping[str, str] = os.environ, path: Path | None = None) -> None:
    """Add the file's settings to ``environ``, whose own win.

    Read by python-dotenv, whose format is Compose's: quotes and escapes, ``${VARIABLE}``, the last
    of two lines for one name.

    Raises:
        UsageError: the file is no UTF-8 text.
    """
    path = path or bundled("compose.yaml").with_name(FILE_NAME)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError:
        return
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8 text: {error.reason} at byte {error.start}",
            hint="save it as UTF-8 (PowerShell's > writes UTF-16: Out-File -Encoding utf8)",
        ) from error
    from dotenv import dotenv_values  # most have no such file

    for name, value in dotenv_values(stream=StringIO(text)).items():
        if value is not None and name.startswith(_OURS):
            environ.setdefault(name, value)
