"""From upstream's checkpoint to a directory that Hugging Face tools and the kit's server open.

Everything is made in a hidden work directory beside the output, which takes the output's name when
it is complete. After any interruption the same call goes on behind the last finished shard.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

import kit
from kit.checkpoint.convert import convert_tensors
from kit.checkpoint.journal import JOURNAL_NAME, sync_directory
from kit.checkpoint.layout import Mapping, map_tensors
from kit.checkpoint.shards import OutputDType
from kit.checkpoint.sweep import Progress
from kit.checkpoint.torchfile import CheckpointFile, index_checkpoint
from kit.errors import EnvironmentNotReady, UsageError
from kit.weights.digest import sha256_file
from kit.weights.export import write_support_files
from kit.weights.facts import model_config, read_arguments
from kit.weights.locate import find_checkpoint, find_tokenizer
from kit.weights.record import (
    ConversionRecord,
    Precision,
    Source,
    read_record,
    write_record,
)

_DTYPES: dict[Precision, OutputDType] = {"bf16": "bfloat16", "fp32": "float32"}


@dataclass(frozen=True)
class _Job:
    """Everything known before the first byte is converted. ``support`` holds finished files."""

    checkpoint: CheckpointFile
    mappings: tuple[Mapping, ...]
    precision: Precision
    support: Path
    output: Path


def _silent(done_bytes: int, total_bytes: int) -> None:
    pass


def convert_checkpoint(
    source: Path,
    output: Path,
    *,
    precision: Precision = "bf16",
    tokenizer: Path | None = None,
    config: Path | None = None,
    num_heads: int | None = None,
    overwrite: bool = False,
    progress: Progress = _silent,
) -> ConversionRecord:
    """Convert a checkpoint, unless ``output`` already is its conversion.

    Args:
        source: upstream's ``.pt`` file, or the folder with ``mp_rank_00_model_states.pt``.
        output: directory to make. Tensors are in ``precision`` there.
        tokenizer: SentencePiece model or its folder; None looks near the checkpoint.
        config: JSON file in upstream's argument names; None takes ``config.json`` beside the
            checkpoint, if there is one.
        num_heads: attention heads, where no configuration tells them; else the 13B's head size.
        overwrite: replace whatever ``output`` is.
        progress: called as ``progress(done_bytes, total_bytes)`` of the source.

    Raises:
        UsageError: ``output`` is something else, the configuration cannot be understood, or the
            source is a tensor-parallel shard.
        EnvironmentNotReady: checkpoint or tokenizer are missing, the disk is full, or another
            conversion into ``output`` is running.
        IntegrityError: the checkpoint or tokenizer is damaged, unsafe (``UnsafePickle``), or not
            of one piece with its configuration.
    """
    path = find_checkpoint(source)
    tokenizer_model = find_tokenizer(tokenizer, path)
    checkpoint = index_checkpoint(path)
    dimensions, mappings = map_tensors(checkpoint.tensors)
    beside = path.with_name("config.json")
    arguments = read_arguments(config or beside) if config or beside.is_file() else {}
    facts = model_config(dimensions, _DTYPES[precision], arguments, num_heads)
    with _exclusive(output), tempfile.TemporaryDirectory() as support:
        # Written first: a tokenizer that does not fit should show before an hour of conversion.
        write_support_files(Path(support), facts, tokenizer_model)
        job = _Job(checkpoint, mappings, precision, Path(support), output)
        return _already_converted(job, overwrite) or _convert(job, progress)


def _already_converted(job: _Job, overwrite: bool) -> ConversionRecord | None:
    """The output's record if it is this conversion; UsageError if it may not be replaced.

    Support files that would come out differently now (a newer kit, another configuration) are
    renewed. Otherwise they are left alone, a user's own edits included.
    """
    output = job.output
    if job.checkpoint.path.resolve().is_relative_to(output.resolve()):
        raise UsageError(
            f"the checkpoint lies inside the output {output}", hint="choose another output"
        )
    record = read_record(output)
    same = record is not None and record.source.is_of(job.checkpoint)
    if record is None or not same or record.precision != job.precision:
        if not overwrite and output.exists() and (output.is_file() or any(output.iterdir())):
            raise UsageError(
                f"{output} exists and is not the {job.precision} conversion of "
                f"{job.checkpoint.path}",
                hint="choose another output, or allow it to be replaced with --overwrite",
            )
        return None
    if not record.is_intact(output):
        return None
    (output / JOURNAL_NAME).unlink(missing_ok=True)
    if (fresh := _digests(job.support)) != record.support:
        _copy_support(job.support, output)
        record = replace(record, support=fresh, kit_version=kit.__version__)
        write_record(output, record)
    return record


def _convert(job: _Job, progress: Progress) -> ConversionRecord:
    checkpoint, output = job.checkpoint, job.output
    work = output.with_name(f".{output.name}.partial")
    converted = convert_tensors(
        checkpoint, job.mappings, work, dtype=_DTYPES[job.precision], progress=progress
    )
    _copy_support(job.support, work)
    record = ConversionRecord(
        kit_version=kit.__version__,
        source=Source(
            name=checkpoint.path.name,
            size_bytes=checkpoint.size_bytes,
            mtime_ns=checkpoint.mtime_ns,
            fingerprint=checkpoint.fingerprint,
            sha256=converted.source_sha256,
        ),
        precision=job.precision,
        tensors=converted.tensors,
        files=converted.files,
        support=_digests(job.support),
        nonfinite_count=converted.nonfinite_count,
    )
    write_record(work, record)
    _publish(work, output)
    return record


def _digests(directory: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(directory.iterdir())}


def _copy_support(support: Path, directory: Path) -> None:
    for path in support.iterdir():
        shutil.copyfile(path, directory / path.name)
        (directory / path.name).chmod(0o644)


def _publish(work: Path, output: Path) -> None:
    """Give the finished directory its name. What had that name before is removed afterwards."""
    replaced = output.with_name(f".{output.name}.replaced")
    _remove(replaced)
    if output.exists():
        output.rename(replaced)
    work.chmod(0o755)
    sync_directory(work)
    work.rename(output)
    sync_directory(output.parent)
    (output / JOURNAL_NAME).unlink()
    _remove(replaced)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _exclusive(output: Path) -> Iterator[None]:
    """Hold a lock beside ``output``; the system releases it when the process ends, however."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(output.with_name(f".{output.name}.lock"), timeout=0)
        lock.acquire()
    except Timeout as error:
        raise EnvironmentNotReady(
            f"another conversion into {output} is running",
            hint="wait until it has finished, then run the same command",
        ) from error
    except OSError as error:
        raise EnvironmentNotReady(
            f"cannot write to {output.parent}: {error.strerror}", hint="choose another output"
        ) from error
    with lock:
        yield
