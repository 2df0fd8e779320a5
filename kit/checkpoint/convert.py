"""Converting a checkpoint's tensors to safetensors shards: chunk by chunk, resumable, hashed.

One sweep over the source: read a chunk into a reused buffer, cast its rows, write them at offsets
that were planned beforehand. Memory does not depend on the size of the checkpoint or of a tensor:
it is four buffers of ``chunk_bytes``. Cached pages are given back on the way.
"""

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import kit
from kit import units
from kit.checkpoint.journal import Journal, open_journal, write_durably, write_journal
from kit.checkpoint.layout import Mapping
from kit.checkpoint.shardfile import ShardFile
from kit.checkpoint.shards import (
    DEFAULT_MAX_SHARD_BYTES,
    INDEX_NAME,
    OutputDType,
    Shard,
    index_json,
    plan_shards,
)
from kit.checkpoint.sweep import HashedBuffers, Progress, Sweep
from kit.checkpoint.torchfile import CheckpointFile
from kit.errors import EnvironmentNotReady, IntegrityError

DEFAULT_CHUNK_BYTES = 8 * units.MIB


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote.

    Attributes:
        source_sha256: of the whole source file.
        tensors: sha256 of every converted tensor's bytes, by its name.
        files: size in bytes of every file written, by its name.
        nonfinite_count: infinite or NaN elements among the converted tensors.
    """

    source_sha256: str
    tensors: dict[str, str]
    files: dict[str, int]
    nonfinite_count: int


def _silent(done_bytes: int, total_bytes: int) -> None:
    pass


def convert_tensors(
    checkpoint: CheckpointFile,
    mappings: Sequence[Mapping],
    directory: Path,
    *,
    dtype: OutputDType = "bfloat16",
    max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES,
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
    progress: Progress = _silent,
) -> Converted:
    """Write ``model*.safetensors`` (and the index of several) into ``directory``.

    Called again with the same arguments after an interruption, it goes on behind the last finished
    shard; if source, plan or kit differ, it starts over. ``directory`` is its own: other files in
    it are removed. Casting rounds to nearest even.

    Raises:
        EnvironmentNotReady: the disk is full; finished shards are kept.
        IntegrityError: the source changed while it was read.
    """
    shards = plan_shards(mappings, dtype, max_shard_bytes)
    with _disk_full_explained(directory):
        journal = open_journal(directory, _key(checkpoint, shards))
        if journal.source_sha256 is None or len(journal.shards) < len(shards):
            _require_space(directory, shards, journal)
            with Sweep(checkpoint.path, checkpoint.size_bytes, chunk_bytes, progress) as sweep:
                journal = _convert_shards(shards, directory, dtype, sweep, journal)
                journal = replace(journal, source_sha256=sweep.finish())
            _require_unchanged(checkpoint)
            write_journal(directory, journal)
        return _result(directory, shards, journal)


def _convert_shards(
    shards: Sequence[Shard], directory: Path, dtype: OutputDType, sweep: Sweep, journal: Journal
) -> Journal:
    with closing(HashedBuffers(sweep.chunk_bytes)) as buffers:
        for shard in shards:
            if shard.name in journal.shards:
                continue
            with ShardFile(directory, shard, dtype, buffers) as file:
                for copy in shard.copies:
                    file.copy(copy, sweep)
                record = file.finish()
            journal = replace(journal, shards=journal.shards | {shard.name: record})
            write_journal(directory, journal)
    return journal


def _result(directory: Path, shards: Sequence[Shard], journal: Journal) -> Converted:
    files = {shard.name: shard.size_bytes for shard in shards}
    if len(shards) > 1:
        index = index_json(shards)
        write_durably(directory / INDEX_NAME, index)
        files[INDEX_NAME] = len(index)
    records = journal.shards.values()
    return Converted(
        source_sha256=journal.source_sha256 or "",
        tensors={name: digest for record in records for name, digest in record.tensors.items()},
        files=files,
        nonfinite_count=sum(record.nonfinite_count for record in records),
    )


def _key(checkpoint: CheckpointFile, shards: Sequence[Shard]) -> str:
    """Changes whenever a finished shard of an earlier try could be of no use."""
    facts = [kit.__version__, checkpoint.size_bytes, checkpoint.mtime_ns, checkpoint.fingerprint]
    headers = [[shard.name, hashlib.sha256(shard.header).hexdigest()] for shard in shards]
    return hashlib.sha256(json.dumps([facts, headers]).encode()).hexdigest()


def _require_unchanged(checkpoint: CheckpointFile) -> None:
    status = checkpoint.path.stat()
    if (status.st_size, status.st_mtime_ns) != (checkpoint.size_bytes, checkpoint.mtime_ns):
        raise IntegrityError(
            f"{checkpoint.path} changed while it was read",
            hint="let nothing write to the checkpoint during the conversion, then try again",
        )


def _require_space(directory: Path, shards: Sequence[Shard], journal: Journal) -> None:
    needed = sum(shard.size_bytes for shard in shards if shard.name not in journal.shards)
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise EnvironmentNotReady(
            f"{directory.parent} has {units.format_gib(free)} free; "
            f"the conversion needs {units.format_gib(needed)}",
            hint="free space there or choose another output; finished shards are kept",
        )


@contextmanager
def _disk_full_explained(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise EnvironmentNotReady(
            f"the disk of {directory.parent} is full",
            hint="free space and run the same command again: finished shards are kept",
        ) from error
