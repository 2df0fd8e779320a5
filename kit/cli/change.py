"""`kit restart`, `kit upgrade` and `kit rollback`."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from kit import units
from kit.cli import options as option
from kit.cli.wiring import wiring
from kit.settings import Settings

if TYPE_CHECKING:
    from kit.cli.render import Terminal
    from kit.service.measured_run import UpReport

_Model = typer.Option(metavar="demo|NAME|DIR", help="Another model.")
_Name = typer.Option(metavar="NAME", help="Another name in the API.")
_Context = typer.Option("--context", min=2, metavar="TOKENS", help="Another context.")
_MaxSequences = typer.Option(min=1, metavar="N", help="Another number of answers at once.")
_Image = typer.Option(
    envvar="KIT_IMAGE",
    metavar="NAME",
    help="Another image.",
    show_default="what this checkout builds, if the old one was built; else the same name",
)
_Pull = typer.Option("--pull", help="Bring the image from its registry even if it is here.")
_MaxRam = typer.Option(metavar="SIZE", help="Another budget of the host RAM peak.")
_MaxVram = typer.Option(metavar="SIZE", help="Another budget of the VRAM peak.")


def restart(
    context: typer.Context,
    instance: Annotated[str | None, option.Instance] = None,
    timeout: Annotated[float, option.Timeout] = 600,
    exercise: Annotated[bool, option.Exercise] = True,
    as_json: Annotated[bool, option.Json] = False,
) -> None:
    """Start the service again as it is; it has to pass the checks of kit up.

    A new KIT_API_KEY takes effect with it.
    """
    from kit.doctor.examine import before_start
    from kit.proof.assertion import Proof
    from kit.service.change import restart as run

    settings = Settings.from_environ()
    runtimes = wiring(context).runtimes(settings)
    proof = Proof(exercise=exercise)
    _report(
        lambda shown: run(
            settings,
            runtimes,
            shown,
            timeout_seconds=timeout,
            proof=proof,
            examine=before_start,
        ),
        as_json,
    )


def upgrade(
    context: typer.Context,
    model: Annotated[str | None, _Model] = None,
    name: Annotated[str | None, _Name] = None,
    context_length: Annotated[int | None, _Context] = None,
    max_sequences: Annotated[int | None, _MaxSequences] = None,
    image: Annotated[str | None, _Image] = None,
    pull: Annotated[bool, _Pull] = False,
    max_ram: Annotated[str | None, _MaxRam] = None,
    max_vram: Annotated[str | None, _MaxVram] = None,
    instance: Annotated[str | None, option.Instance] = None,
    timeout: Annotated[float, option.Timeout] = 600,
    exercise: Annotated[bool, option.Exercise] = True,
    as_json: Annotated[bool, option.Json] = False,
) -> None:
    """Replace the service by another image, model or setting; else bring it back.

    What is not named stays as it is. The new service has to be ready, answer and stay within
    its budget; where it does not, the old one is started again and the exit code says why.
    """
    from kit.doctor.examine import before_start
    from kit.proof.assertion import Proof
    from kit.service.change import Wishes
    from kit.service.change import upgrade as run

    settings = Settings.from_environ()
    named_by = context.get_parameter_source("image")
    wishes = Wishes(
        model=model,
        name=name,
        context=context_length,
        max_sequences=max_sequences,
        image=image,
        insists=named_by is not None and named_by.name == "COMMANDLINE",
        max_ram_bytes=units.parse_size(max_ram) if max_ram else None,
        max_vram_bytes=units.parse_size(max_vram) if max_vram else None,
        pull=pull,
        timeout_seconds=timeout,
        proof=Proof(exercise=exercise),
        examine=before_start,
    )
    runtimes = wiring(context).runtimes(settings)
    _report(lambda shown: run(wishes, settings, runtimes, shown), as_json)


def rollback(
    context: typer.Context,
    instance: Annotated[str | None, option.Instance] = None,
    timeout: Annotated[float, option.Timeout] = 600,
    exercise: Annotated[bool, option.Exercise] = True,
    as_json: Annotated[bool, option.Json] = False,
) -> None:
    """Go back to the service that ran well before the present one, image and settings alike."""
    from kit.doctor.examine import before_start
    from kit.proof.assertion import Proof
    from kit.service.change import rollback as run

    settings = Settings.from_environ()
    runtimes = wiring(context).runtimes(settings)
    proof = Proof(exercise=exercise)
    _report(
        lambda shown: run(
            settings,
            runtimes,
            shown,
            timeout_seconds=timeout,
            proof=proof,
            examine=before_start,
        ),
        as_json,
    )


def _report(change: "Callable[[Terminal], UpReport]", as_json: bool) -> None:
    from kit.cli.render import Terminal
    from kit.cli.up_report import print_json, print_text
    from kit.memory.budget import require

    with Terminal() as terminal:
        report = change(terminal)
    (print_json if as_json else print_text)(report)
    require(report.verdicts)
