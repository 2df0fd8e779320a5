"""Read everything again and check it against the lock, or against a conversion's record."""

import contextlib
import json
import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from blake3 import blake3

from kit.checkpoint.compare import compare
from kit.checkpoint.pages import PageRelease, read_into
from kit.checkpoint.shards import was_converted
from kit.commands import command
from kit.errors import EnvironmentNotReady, IntegrityError, KitError, UsageError, printable
from kit.lock import LockedFile
from kit.records import MAX_BYTES, open_plain, parse_object, read_object
from kit.units import MIB
from kit.weights import folder, layers
from kit.weights.convert.published import open_model
from kit.weights.convert.record import RECORD_NAME, ConversionRecord, Precision, read_record
from kit.weights.digest import Progress, sha256_file
from kit.weights.fetch.transfer import Watch
from kit.weights.folder import checkpoint_dir
from kit.weights.listing import read_records

_CHUNK_BYTES = 4 * MIB
_HARMLESS = re.compile(r"\..*|.*\.(md|txt)|(LICEN[CS]E|NOTICE).*")
"""Names of files that no tool loads: hidden ones, texts for people."""


@dataclass(frozen=True)
class Checked:
    """One file that was looked at.

    Attributes:
        problem: None where it is what it should be.
        readable: whether it could be looked at.
    """

    path: Path
    size_bytes: int
    problem: str | None = None
    readable: bool = True


def verify_set(
    directory: Path, locked: Mapping[str, LockedFile], progress: Progress
) -> tuple[Checked, ...]:
    """Read a set's files and compare size and sha256 with the lock."""
    total = sum(entry.size_bytes for entry in locked.values())
    done, results = 0, []
    progress(done, total)
    for file, entry in locked.items():
        part = Watch(progress).part(done, total).progress
        results.append(_verify_file(directory, file, entry, part))
        done += entry.size_bytes
        progress(done, total)
    return tuple(results)


def verify_conversion(
    directory: Path, record: ConversionRecord, progress: Progress
) -> tuple[Checked, ...]:
    """Read a converted directory and compare every tensor and every file with its record.

    A file that the record does not know is wrong, too: tools would load it.
    """
    expected = record.support | record.edited
    support = [_verify_support(directory, file, sha) for file, sha in expected.items()]
    extra = [
        Checked(directory / name, 0, "is not of this conversion")
        for name in unknown_files(directory, record)
    ]
    return (*support, *extra, *verify_weights(directory, record, progress))


def unknown_files(directory: Path, record: ConversionRecord) -> tuple[str, ...]:
    """What lies in a converted directory and is not of its record, hidden files and texts apart."""
    try:
        names = [path.name for path in directory.iterdir()]
    except OSError:  # then nothing of the record can be read either
        return ()
    return tuple(sorted(n for n in names if n not in record.names and not _HARMLESS.fullmatch(n)))


def verify_weights(
    directory: Path, record: ConversionRecord, progress: Progress
) -> tuple[Checked, ...]:
    """Read the safetensors files of a converted directory and compare every tensor."""
    results: list[Checked] = []
    missing = set(record.tensors)
    total, done = sum(record.files.values()), 0
    progress(done, total)
    for file, size_bytes in record.files.items():
        part = Watch(progress).part(done, total).progress
        find_problem = partial(
            _weights_problem, directory / file, size_bytes, record.tensors, missing, part
        )
        results.append(_checked(directory / file, size_bytes, find_problem))
        done += size_bytes
        progress(done, total)
    if missing and not any(result.problem for result in results):
        problem = f"tensors are missing: {', '.join(sorted(missing)[:3])}"
        results.append(Checked(directory / RECORD_NAME, 0, problem))
    return tuple(results)


def require_sound(results: tuple[Checked, ...], remedy: str) -> None:
    """Return when nothing is wrong.

    Raises:
        IntegrityError: it names every file that is not what it should be.
        EnvironmentNotReady: nothing is known to be wrong, but files cannot be read; it names them.
    """
    wrong = [result for result in results if result.problem]
    problems = "\n       ".join(f"{result.path} {result.problem}" for result in wrong)
    if any(result.readable for result in wrong):
        raise IntegrityError(problems, hint=remedy)
    if wrong:
        raise EnvironmentNotReady(problems, hint="check the permissions, then run it again")


def _verify_file(directory: Path, file: str, entry: LockedFile, progress: Progress) -> Checked:
    path = directory / file

    def problem() -> str | None:
        if wrong_size := _size_problem(path, entry.size_bytes):
            return wrong_size
        found = sha256_file(path, progress)
        same = found == entry.sha256
        return None if same else f"has sha256 {found}, {entry.sha256} expected"

    checked = _checked(path, entry.size_bytes, problem)
    with contextlib.suppress(OSError):  # a folder of somebody else's
        if checked.problem is None:
            folder.remember(directory, file, entry.sha256)
        else:
            folder.forget(directory, file)
    return checked


def _verify_support(directory: Path, file: str, sha256: str) -> Checked:
    path = directory / file

    def problem() -> str | None:
        if not path.is_file():
            return "is missing"
        return None if sha256_file(path) == sha256 else "was changed since the conversion"

    return _checked(path, path.stat().st_size if path.is_file() else 0, problem)


def _checked(path: Path, size_bytes: int, problem: Callable[[], str | None]) -> Checked:
    """``path`` with what ``problem()`` says of it, also where that cannot read it."""
    try:
        return Checked(path, size_bytes, problem())
    except OSError as error:
        return Checked(path, size_bytes, f"cannot be read: {error.strerror}", readable=False)


def _size_problem(path: Path, size_bytes: int) -> str | None:
    if not path.is_file():
        return "is missing"
    found = path.stat().st_size
    return None if found == size_bytes else f"has {found} bytes, {size_bytes} expected"


def _weights_problem(
    path: Path,
    size_bytes: int,
    tensors: Mapping[str, str],
    missing: set[str],
    progress: Progress,
) -> str | None:
    """What is wrong with a file of weights; takes the tensors it holds out of ``missing``.

    Raises:
        OSError: it cannot be read.
    """
    if (wrong_size := _size_problem(path, size_bytes)) or path.suffix != ".safetensors":
        return wrong_size
    try:
        for name, extent in _extents(path):
            expected = tensors.get(name)
            if expected is None:
                return f"holds {printable(name)}, of which the conversion's record does not know"
            found = _blake3_of(path, extent)
            if found != expected:
                return f"has other bytes in {printable(name)}: blake3 {found}, {expected} expected"
            missing.discard(name)
            progress(extent.stop, extent.stop)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"has a damaged header ({printable(str(error))})"
    return None


def _extents(path: Path) -> Iterator[tuple[str, range]]:
    """Tensors of a safetensors file with the bytes they take, in the order of the file.

    Format: https://github.com/huggingface/safetensors#format.
    """
    size_bytes = path.stat().st_size
    with open_plain(path) as file:
        length = int.from_bytes(file.read(8), "little")
        if length > size_bytes:
            raise ValueError("its length is wrong")
        header = parse_object(file.read(min(length, MAX_BYTES + 1)))
    start = 8 + length
    tensors = [(entry["data_offsets"], name) for name, entry in header.items() if name[:2] != "__"]
    for (begin, end), name in sorted(tensors):
        if not 0 <= begin <= end <= size_bytes - start:
            raise ValueError(f"{name} lies outside of the file")
        yield name, range(start + begin, start + end)


def _blake3_of(path: Path, extent: range) -> str:
    digest, buffer = blake3(), memoryview(bytearray(_CHUNK_BYTES))
    with open_plain(path) as file:
        fd = file.fileno()
        release = PageRelease(fd)
        for offset in range(extent.start, extent.stop, _CHUNK_BYTES):
            wanted = min(_CHUNK_BYTES, extent.stop - offset)
            count = read_into(fd, buffer[:wanted], offset)
            digest.update(buffer[:count])
            release.passed(offset, wanted)
    return digest.hexdigest()


def require_provable(precision: Precision, lora: Path | None) -> None:
    """Raise UsageError where a converted tensor is more than its source in another float type."""
    if precision not in ("bf16", "fp32") or lora is not None:
        raise UsageError(
            "--verify compares bf16 and fp32 conversions without an adapter",
            hint="leave out --verify; `kit weights verify OUTPUT` holds any conversion against "
            "the sums that were taken while it was written",
        )


def prove_conversion(source: Path, output: Path, progress: Progress | None = None) -> int:
    """Compare every tensor of ``output`` with ``source``, bit for bit, after rounding.

    Args:
        source: as for ``convert_checkpoint``.
        output: the converted directory.
        progress: called as ``progress(done_bytes, total_bytes)`` of the source.

    Returns:
        How many tensors were compared and found equal.

    Raises:
        UsageError: ``output`` is in less than 16 bits, or an adapter was merged into it.
        EnvironmentNotReady: there is no conversion at ``output``.
        IntegrityError: a tensor differs, or a file is damaged.
    """
    record = read_record(output)
    if record is None:
        raise EnvironmentNotReady(
            f"{output} holds no conversion", hint=command("kit weights convert", source, output)
        )
    require_provable(record.precision, output if record.lora else None)
    model = open_model(source)
    dtype: Literal["bfloat16", "float32"] = "bfloat16" if record.precision == "bf16" else "float32"
    return compare(model.files, model.mappings, output, dtype, progress=progress)


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


logger = logging.getLogger("kit.serve")

SEEN_NAME = "verified-weights.json"


def require_untampered(
    directory: Path, state_dir: Path, progress: Callable[[int, int], None]
) -> None:
    """Return when every tensor and every file is as it was converted, and no other file is there.

    A directory that another tool wrote has no conversion's record and cannot be checked against
    anything; the log says so.

    Args:
        directory: with safetensors files.
        state_dir: where it is remembered what was found sound, if that can be written.
        progress: called as ``progress(done_bytes, total_bytes)``.

    Raises:
        IntegrityError: a file is missing, damaged, changed or too many, or the record is damaged,
            or gone from a directory that the kit made.
        EnvironmentNotReady: the record or a file cannot be read.
    """
    record = read_record(directory)
    if record is None:
        _require_foreign(directory, state_dir)
        logger.info("%s has no %s: its weights are taken as they are", directory, RECORD_NAME)
        return
    seen_file, name = state_dir / SEEN_NAME, str(directory.resolve())
    seen, state = _read(seen_file), _state(directory, record)
    if state is not None and seen.get(name) == state:
        return
    results = verify_conversion(directory, record, progress)
    require_sound(
        results,
        f"what you changed yourself: {command('kit weights refresh', name)} --accept FILE; move "
        "away what does not belong there; else remove the directory and convert again",
    )
    with contextlib.suppress(OSError):  # then it is read again next time
        state_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=state_dir) as own:  # others may write at the same time
            fresh = Path(own) / SEEN_NAME
            fresh.write_text(json.dumps(seen | {name: state}), encoding="utf-8")
            fresh.replace(seen_file)


def _require_foreign(directory: Path, state_dir: Path) -> None:
    """Raise IntegrityError for a directory that must have a record, by its files or by memory."""
    seen = str(directory.resolve()) in _read(state_dir / SEEN_NAME)
    if seen or any(map(was_converted, sorted(directory.glob("*.safetensors")))):
        raise IntegrityError(
            f"{directory} was made by kit weights convert, and its {RECORD_NAME} is gone",
            hint=f"get {RECORD_NAME} again from where the directory came, or convert again: "
            + command("kit weights convert CHECKPOINT", directory, "--overwrite"),
        )


def _state(directory: Path, record: ConversionRecord) -> list[list[int]] | None:
    """What changes when a file is written: size, times, inode.

    None: a file is missing or too many.
    """
    if unknown_files(directory, record):
        return None
    try:
        stats = [(directory / file).stat() for file in sorted(record.names)]
    except OSError:
        return None
    return [[stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino] for stat in stats]


def _read(path: Path) -> dict[str, list[list[int]]]:
    try:
        return read_object(path)
    except (OSError, ValueError):
        return {}
