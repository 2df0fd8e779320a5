"""What to do with a set of weights that has arrived."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kit.settings import Settings
    from kit.weights.record import Precision


def conversion_command(
    name: str, directory: Path, settings: "Settings", precision: "Precision" = "bf16"
) -> str | None:
    """The command that converts set ``name`` in ``directory``; None: it holds no checkpoint."""
    from kit.weights.catalogue import read_catalogue
    from kit.weights.folder import converted_dir

    weights = read_catalogue(settings.weights_catalogue).weights.get(name)
    if weights is None or weights.checkpoint is None:
        return None
    output = converted_dir(settings.data_dir, name, precision)
    option = "" if precision == "bf16" else f" --precision {precision}"
    return f"kit weights convert {directory / weights.checkpoint} {output}{option}"
