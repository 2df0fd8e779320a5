"""Find what there is to verify: by name, by folder, or all of it."""

from functools import partial
from pathlib import Path

from kit.errors import EnvironmentNotReady, KitError
from kit.weights import layers
from kit.weights.folder import checkpoint_dir
from kit.weights.listing import read_records
from kit.weights.record import RECORD_NAME, read_record
from kit.weights.transfer import Watch
from kit.weights.verify import Checked, verify_conversion, verify_set


def verify_one(name: str, path: Path, data_dir: Path, watch: Watch) -> tuple[Checked, ...]:
    """Verify the set ``name``, or the folder ``path``, or that folder of the data folder.

    A folder is a converted directory, or one that holds a set's files (``fetch --to``).

    Raises:
        EnvironmentNotReady: there is no such thing here, or the lock does not know it; or the
            conversion's record cannot be read.
        IntegrityError: the conversion's record is damaged.
    """
    locked = layers.read_layers(data_dir).weights
    if name in locked and checkpoint_dir(data_dir, name).is_dir():
        return verify_set(checkpoint_dir(data_dir, name), locked[name], watch.progress)
    for directory in (path, data_dir / name):
        record = read_record(directory)
        if record is not None:
            return verify_conversion(directory, record, watch.progress)
    for files in locked.values():
        if path.is_dir() and files and all((path / file).is_file() for file in files):
            return verify_set(path, files, watch.progress)
    raise EnvironmentNotReady(
        f"{name} is neither a set that was fetched nor a converted directory",
        hint="kit weights list shows what is here; what the lock does not know cannot be verified: "
        "take it in with kit weights import",
    )


def verify_all(data_dir: Path, watch: Watch) -> tuple[Checked, ...]:
    """Verify every fetched set and every converted directory in the data folder.

    Raises:
        EnvironmentNotReady: there is nothing.
    """
    jobs = [
        (sum(entry.size_bytes for entry in files.values()), partial(verify_set, directory, files))
        for name, files in layers.read_layers(data_dir).weights.items()
        if (directory := checkpoint_dir(data_dir, name)).is_dir()
    ]
    results: list[Checked] = []
    for directory, record in read_records(data_dir).items():
        if isinstance(record, KitError):
            results.append(_unusable(directory, record))
        else:
            size_bytes = sum(record.files.values())
            jobs.append((size_bytes, partial(verify_conversion, directory, record)))
    total_bytes, done_bytes = sum(size_bytes for size_bytes, _ in jobs), 0
    for size_bytes, verify in jobs:
        results += verify(progress=watch.part(done_bytes, total_bytes).progress)
        done_bytes += size_bytes
    if not results:
        raise EnvironmentNotReady(
            f"there are no weights in {data_dir}", hint="kit weights fetch gets some"
        )
    return tuple(results)


def _unusable(directory: Path, error: KitError) -> Checked:
    path = directory / RECORD_NAME
    problem = error.message.removeprefix(f"{path} ")
    return Checked(path, 0, problem, readable=not isinstance(error, EnvironmentNotReady))
