"""What to do with a set of weights that has arrived."""

from pathlib import Path
from typing import TYPE_CHECKING

from kit.commands import command

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kit.lock import LockedFile
    from kit.settings import Settings
    from kit.weights.record import Precision


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
