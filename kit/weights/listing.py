"""What the catalogue offers, and how far each set has come on this machine."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from kit.errors import KitError
from kit.lock import Lock, LockedFile
from kit.weights import folder
from kit.weights.catalogue import Catalogue, WeightSet
from kit.weights.convert.record import ConversionRecord, Precision, read_record
from kit.weights.fetch.partial import arrived_bytes
from kit.weights.folder import checkpoint_dir, converted_dir
from kit.weights.licence import read_acceptances


@dataclass(frozen=True)
class SetState:
    """One set of the catalogue as it stands here.

    Attributes:
        size_bytes: of all files by the lock, else of the checkpoint's tensors; None: unknown.
        exact: whether that is the lock's figure.
        licence_accepted: date of the acceptance on record.
        here_bytes: what has arrived.
        complete: whether every file is there.
        verified: whether every file is there, known to the lock, and unchanged since it was read
            and found to be what the lock says.
        converted: directories made of its checkpoint, or named as its conversion.
        damaged: directories named as its conversion, with a record that cannot be read.
    """

    name: str
    what: str
    sources: tuple[str, ...]
    licence: str
    licence_accepted: str | None
    size_bytes: int | None
    exact: bool
    directory: Path
    here_bytes: int
    complete: bool
    verified: bool
    converted: tuple[Path, ...]
    damaged: tuple[Path, ...]


def list_sets(catalogue: Catalogue, lock: Lock, data_dir: Path) -> tuple[SetState, ...]:
    """The state of every set in the catalogue."""
    accepted = {name: entry.date for name, entry in read_acceptances(data_dir).items()}
    records = read_records(data_dir)
    return tuple(
        _state(weights, lock.weights.get(weights.name, {}), data_dir, accepted, records)
        for weights in catalogue.weights.values()
    )


def read_records(data_dir: Path) -> dict[Path, ConversionRecord | KitError]:
    """The directories in the data folder that have a conversion's record: it, or what is wrong.

    Folders that may not be entered, such as a volume's lost+found, are left out.
    """
    found = {}
    for path in sorted(data_dir.glob("[!.]*")):
        if path.is_dir() and os.access(path, os.X_OK):
            try:
                record: ConversionRecord | KitError | None = read_record(path)
            except KitError as error:
                record = error
            if record is not None:
                found[path] = record
    return found


def find_conversions(data_dir: Path) -> dict[Path, ConversionRecord]:
    """The converted directories in the data folder, with their records; none that is damaged."""
    return _sound(read_records(data_dir))


def _sound(records: Mapping[Path, ConversionRecord | KitError]) -> dict[Path, ConversionRecord]:
    return {path: each for path, each in records.items() if isinstance(each, ConversionRecord)}


def conversions_of(
    checkpoint: LockedFile | None, conversions: Mapping[Path, ConversionRecord]
) -> tuple[Path, ...]:
    """The converted directories that were made of a checkpoint."""
    if checkpoint is None:
        return ()
    digest = f"sha256:{checkpoint.sha256}"
    return tuple(
        path
        for path, record in conversions.items()
        if any(source.digest == digest for source in record.sources)
    )


def _converted(
    name: str,
    checkpoint: LockedFile | None,
    conversions: Mapping[Path, ConversionRecord],
    data_dir: Path,
) -> tuple[Path, ...]:
    """Those, and what `kit up --model NAME` serves, from a bundle for instance."""
    made = conversions_of(checkpoint, conversions)
    named = {converted_dir(data_dir, name, record.precision) for record in conversions.values()}
    return tuple(path for path in conversions if path in made or path in named)


def _state(
    weights: WeightSet,
    locked: Mapping[str, LockedFile],
    data_dir: Path,
    accepted: Mapping[str, str],
    records: Mapping[Path, ConversionRecord | KitError],
) -> SetState:
    directory = checkpoint_dir(data_dir, weights.name)
    exact = weights.files.keys() <= locked.keys()
    size = sum(locked[file].size_bytes for file in weights.files) if exact else None
    paths = [directory / file for file in weights.files]
    here = sum(path.stat().st_size if path.is_file() else arrived_bytes(path) for path in paths)
    checkpoint = locked.get(weights.checkpoint or "")
    return SetState(
        name=weights.name,
        what=weights.what,
        sources=weights.sources,
        licence=weights.licence.name,
        licence_accepted=accepted.get(weights.licence.name),
        size_bytes=size if exact else weights.tensors_bytes,
        exact=exact,
        directory=directory,
        here_bytes=here,
        complete=all(path.is_file() for path in paths),
        verified=exact
        and all(folder.known_digest(directory, f) == locked[f].sha256 for f in weights.files),
        converted=_converted(weights.name, checkpoint, _sound(records), data_dir),
        damaged=tuple(
            path
            for precision in get_args(Precision)
            if isinstance(
                records.get(path := converted_dir(data_dir, weights.name, precision)), KitError
            )
        ),
    )
