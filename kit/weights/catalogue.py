"""The catalogue: which weights there are, of which files, from which sources, on which terms."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kit.errors import KitError, UsageError
from kit.files import inner_path
from kit.records import MAX_BYTES, read_plain

SHIPPED = Path(__file__).with_name("catalogue.toml")
_TABLES = ("shapes", "licences", "sources", "weights")


@dataclass(frozen=True)
class Licence:
    """Terms on which weights are given. The text is the licensor's and stays with him."""

    name: str
    title: str
    summary: tuple[str, ...]
    url: str
    text_url: str


@dataclass(frozen=True)
class Source:
    """A place that offers weights.

    Attributes:
        kind: which protocol it speaks; see ``kit.weights.fetch.sources``.
        token_variable: environment variable with an access token, where one can be needed.
        options: what that protocol needs to know: ``base``, ``repository`` and so on.
    """

    name: str
    kind: Literal["lfs", "openi", "https"]
    what: str
    token_variable: str | None
    options: Mapping[str, str]


@dataclass(frozen=True)
class Shape:
    """What a model's memory follows from; see ``kit.memory.plan.shape.ModelShape``."""

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    max_context: int
    window: int | None
    parameters: int


@dataclass(frozen=True)
class WeightSet:
    """One thing that can be fetched.

    Attributes:
        files: path at the source, by path in the set's own folder.
        sources: names of sources, the preferred one first.
        checkpoint: the file to convert; None: there is nothing to convert.
        parameter_bytes: of one parameter in the checkpoint.
    """

    name: str
    what: str
    files: Mapping[str, str]
    sources: tuple[str, ...]
    licence: Licence
    shape: Shape | None
    checkpoint: str | None
    parameter_bytes: int

    @property
    def tensors_bytes(self) -> int | None:
        """What the checkpoint's tensors take; the file is a little larger. None: unknown."""
        return self.shape.parameters * self.parameter_bytes if self.shape else None

    def plausible_bytes(self, file: str) -> range | None:
        """Sizes that ``file`` may have; None where nothing is known of it.

        A checkpoint is not smaller than its tensors, and not larger than the weights, gradients and
        optimizer state of a training in fp32: four numbers for each parameter.
        """
        if self.shape is None or self.tensors_bytes is None or file != self.checkpoint:
            return None
        return range(self.tensors_bytes, 4 * 4 * self.shape.parameters)


@dataclass(frozen=True)
class Catalogue:
    """Everything that can be fetched, and where."""

    weights: Mapping[str, WeightSet]
    sources: Mapping[str, Source]
    licences: Mapping[str, Licence]

    def find(self, name: str) -> WeightSet:
        """The weights of that name.

        Raises:
            UsageError: there are none.
        """
        if name not in self.weights:
            raise UsageError(
                f"there are no weights named {name!r}",
                hint=f"kit weights list shows what there is: {', '.join(self.weights)}",
            )
        return self.weights[name]


def read_catalogue(own: Path | None = None) -> Catalogue:
    """The kit's catalogue, with the entries of ``own`` on top.

    Raises:
        UsageError: ``own`` cannot be read or understood.
    """
    content = _read(SHIPPED)
    try:
        if own is not None:
            added = _read(own)
            content = {table: content[table] | added.get(table, {}) for table in _TABLES}
        return _catalogue(content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, KitError) as error:
        raise UsageError(
            f"cannot use the catalogue {own}: {error}",
            hint="it has the form of kit/weights/catalogue.toml; see docs/weights.md",
        ) from error


def _read(path: Path) -> dict[str, Any]:
    return tomllib.loads(read_plain(path, MAX_BYTES).decode())


def _catalogue(content: Mapping[str, Any]) -> Catalogue:
    shapes = {name: Shape(**entry) for name, entry in content["shapes"].items()}
    licences = {
        name: Licence(name=name, **entry | {"summary": tuple(entry["summary"])})
        for name, entry in content["licences"].items()
    }
    sources = {name: _source(name, entry) for name, entry in content["sources"].items()}
    weights = {
        name: _weights(name, entry, licences, shapes) for name, entry in content["weights"].items()
    }
    for found in weights.values():
        unknown = set(found.sources) - sources.keys()
        if unknown:
            raise ValueError(f"{found.name} names the unknown source {min(unknown)}")
    return Catalogue(weights, sources, licences)


def _source(name: str, entry: Mapping[str, str]) -> Source:
    rest = {key: value for key, value in entry.items() if key not in ("kind", "what", "token")}
    kind = entry["kind"]
    if kind not in ("lfs", "openi", "https"):
        raise ValueError(f"{name} is of the unknown kind {kind}")
    return Source(name, kind, entry["what"], entry.get("token"), rest)  # type: ignore[arg-type]


def _weights(
    name: str,
    entry: Mapping[str, Any],
    licences: Mapping[str, Licence],
    shapes: Mapping[str, Shape],
) -> WeightSet:
    files = {inner_path(file): inner_path(path) for file, path in entry["files"].items()}
    checkpoint = entry.get("checkpoint")
    if checkpoint is not None and checkpoint not in files:
        raise ValueError(f"{name} has no file {checkpoint}")
    if "/" in inner_path(name):
        raise ValueError(f"{name} is no name for weights")
    return WeightSet(
        name=name,
        what=entry["what"],
        files=files,
        sources=tuple(entry["sources"]),
        licence=licences[entry["licence"]],
        shape=shapes[entry["shape"]] if "shape" in entry else None,
        checkpoint=checkpoint,
        parameter_bytes=int(entry.get("parameter_bytes", 0)),
    )
