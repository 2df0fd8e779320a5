"""On a GPU server without weights: what is missing, its size and licence, how long it takes."""

import textwrap
from dataclasses import dataclass

from kit.errors import EnvironmentNotReady
from kit.settings import Settings
from kit.units import format_gib

WEIGHTS = "spark-13b-chat"
"""What is served where nobody says otherwise."""

_RATES = (("1 Gbit/s", 10**9 / 8), ("100 Mbit/s", 10**8 / 8))


class WeightsMissing(EnvironmentNotReady):
    """No model was named, and the weights are not here.

    Attributes:
        convert: whether they have to be converted after the download.
    """

    convert = True

    @classmethod
    def of(cls, *, convert: bool) -> "WeightsMissing":
        """The error, with the command that mends it."""
        error = cls(
            f"this machine has a GPU, and the weights of {WEIGHTS} are not here",
            hint=f"fetch them: {fetch_command(convert=convert)} (a checkpoint that you have: "
            "kit weights convert CHECKPOINT DIR, then kit up --model DIR); "
            "or try the tiny demo: kit up --model demo",
        )
        error.convert = convert
        return error


@dataclass(frozen=True)
class Missing:
    """What would be fetched.

    Attributes:
        size_bytes: of all its files; about, where the lock does not know them.
        here_bytes: what has arrived already.
        converted_bytes: what its conversion takes.
    """

    what: str
    size_bytes: int
    here_bytes: int
    converted_bytes: int
    licence: str
    terms: tuple[str, ...]

    @property
    def left_bytes(self) -> int:
        """Still to come."""
        return max(0, self.size_bytes - self.here_bytes)


def fetch_command(*, convert: bool) -> str:
    """What brings the weights."""
    return f"kit weights fetch {WEIGHTS}" + (" --convert" if convert else "")


def look_for(settings: Settings) -> Missing:
    """What is missing of the weights, as the catalogue and the lock know them.

    Raises:
        IntegrityError: one of them is damaged.
    """
    from kit.weights import layers
    from kit.weights.catalogue import read_catalogue
    from kit.weights.listing import list_sets
    from kit.weights.preflight import converted_bytes

    catalogue = read_catalogue(settings.weights_catalogue)
    weights = catalogue.find(WEIGHTS)
    states = list_sets(catalogue, layers.read_layers(settings.data_dir), settings.data_dir)
    state = next(each for each in states if each.name == WEIGHTS)
    return Missing(
        what=f"{WEIGHTS}: {weights.what}",
        size_bytes=state.size_bytes or 0,
        here_bytes=state.here_bytes,
        converted_bytes=converted_bytes(weights, "bf16") or 0,
        licence=weights.licence.title,
        terms=weights.licence.summary,
    )


def lines_of(missing: Missing, *, convert: bool) -> list[str]:
    """The same for people, one line each."""
    here = f", of which {format_gib(missing.here_bytes)} are here" if missing.here_bytes else ""
    size = f"about {format_gib(missing.size_bytes)} to download{here}"
    times = ", ".join(f"{_duration(missing.left_bytes / rate)} at {name}" for name, rate in _RATES)
    if convert:
        size += f", {format_gib(missing.converted_bytes)} converted"
        times += "; then minutes to convert"
    rows = [("weights", missing.what), ("size", size), ("time", f"about {times}")]
    rows += [("licence", missing.licence), *(("", f"- {term}") for term in missing.terms)]
    return [line for label, text in rows for line in _row(label, text)]


def _row(label: str, text: str) -> list[str]:
    """A label and its text, wrapped at 80 columns."""
    indent = " " * (13 if text.startswith("- ") else 11)
    return textwrap.wrap(f"  {label:<9}{text}", 80, subsequent_indent=indent)


def _duration(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"
