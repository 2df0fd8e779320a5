"""Converting a checkpoint's tensors to safetensors shards: chunk by chunk, resumable, hashed.

One sweep over the source: chunks are read ahead into reused buffers, cast, and written at offsets
that were planned beforehand, past the page cache. Memory does not depend on the size of the
checkpoint or of a tensor: it is nine buffers of ``chunk_bytes``, a tenth where tensors are joined
from pieces, and an eleventh and one factor where an adapter is merged.

Source and output are hashed by BLAKE3, which is as hard to forge as SHA-256 and several times as
fast.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
from blake3 import blake3

import kit
from kit import units
from kit.checkpoint.encoding import Array, OutputDType
from kit.checkpoint.gather import Block, Gatherer, requests, wanted
from kit.checkpoint.journal import Journal, ShardRecord, open_journal, write_journal
from kit.checkpoint.layout import Mapping, matrix
from kit.checkpoint.lora import MERGED_ITEM_BYTES, Adapter, Merge
from kit.checkpoint.pages import PAGE_BYTES, ROOM_BYTES, Buffers, Bytes, NewFile
from kit.checkpoint.shards import (
    DEFAULT_MAX_SHARD_BYTES,
    INDEX_NAME,
    Copy,
    Output,
    Shard,
    Target,
    index_json,
    plan_shards,
)
from kit.checkpoint.source import Progress, SourceFile, Sweep, require_unchanged
from kit.files import full_disk_explained, require_space, write_durably


class ShardFile:
    """A shard being written. Use as a context manager; an existing file is replaced."""

    def __init__(self, directory: Path, shard: Shard, buffers: Buffers) -> None:
        self._shard = shard
        self._buffers = buffers
        self._hashes = {target.stored.name: blake3() for target in shard.targets}
        self._nonfinite: Counter[str] = Counter()
        self._file = NewFile(directory / shard.name, shard.size_bytes)

    def __enter__(self) -> Self:
        self._file.write(np.frombuffer(self._shard.header, np.uint8), 0)
        for target in self._shard.targets:
            if (content := target.stored.constant) is not None:
                self._file.write(np.frombuffer(content, np.uint8), target.offset)
                self._hashes[target.stored.name].update(content)
        return self

    def __exit__(self, *_: object) -> None:
        self._buffers.wait()
        self._file.close()

    def copy(self, copy: Copy, source: Gatherer, merge: Merge | None = None) -> None:
        """Read one source tensor and write all tensors made of it.

        Args:
            copy: the tensor and what becomes of it.
            source: reads the tensor.
            merge: adds an adapter's share, if there is an adapter.
        """
        for block, values in source.blocks(copy.source, item_bytes(copy, merge is not None)):
            for output in copy.outputs:
                self._write(output, block, values, merge)

    def finish(self) -> ShardRecord:
        """Wait until the file is on disk and its tensors are hashed."""
        self._buffers.settle()
        self._file.finish()
        return ShardRecord(
            size_bytes=self._shard.size_bytes,
            tensors={name: running.hexdigest() for name, running in self._hashes.items()},
            nonfinite=dict(+self._nonfinite),
        )

    def _write(self, output: Output, block: Block, values: Array, merge: Merge | None) -> None:
        rows, position = wanted(output.rows, block.first_row, block.last_row)
        if not rows:
            return
        chosen = values[rows.start : rows.stop : rows.step]
        if merge:
            chosen = merge.add(output.name, chosen, position, block.first_column)
        buffer = self._buffers.next()
        buffer.settle()
        raws = self._lay_out(output, block, len(rows), position, buffer.bytes)
        self._nonfinite[output.name] += output.encoding.encode(chosen, [raw for raw, _, _ in raws])
        for raw, target, offset in raws:
            flat = raw.reshape(-1)
            buffer.begin(self._buffers.mover, self._file.write, flat, offset)
            buffer.begin(self._buffers.hasher, self._hashes[target.stored.name].update, flat.data)

    def _lay_out(
        self, output: Output, block: Block, rows: int, position: int, memory: Bytes
    ) -> list[tuple[Bytes, Target, int]]:
        """Memory ``[rows, n]`` for the block's share of each target, and its place in the file.

        What lies on a page in the file lies on one in memory, so that it can be written directly.
        """
        found = []
        end = 0
        columns = block.shape[1]
        for target, before, row_bytes in zip(
            output.targets,
            output.encoding.row_bytes(block.first_column),
            output.encoding.row_bytes(columns),
            strict=False,
        ):
            offset = target.offset + position * (target.stored.nbytes // len(output.rows)) + before
            begin = end + (offset - end) % PAGE_BYTES
            end = begin + rows * row_bytes
            found.append((memory[begin:end].reshape(rows, row_bytes), target, offset))
        return found


def item_bytes(copy: Copy, merged: bool) -> int:
    """What one element takes at most, in the file or while an adapter is added to it."""
    columns = matrix(copy.source.shape)[1]
    stored = max(-(-sum(output.encoding.row_bytes(columns)) // columns) for output in copy.outputs)
    return MERGED_ITEM_BYTES if merged else stored


DEFAULT_CHUNK_BYTES = 4 * units.MIB - ROOM_BYTES
OUTPUT_BUFFERS = 4
ADAPTER_CHUNK_BYTES = 1 * units.MIB
_KEPT = "finished shards are kept"


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote.

    Attributes:
        sources: digests of the whole source files, ``blake3:…`` or as they were known, in their
            order; the adapter's after the checkpoint's.
        tensors: BLAKE3 of every converted tensor's bytes, by its name.
        files: size in bytes of every file written, by its name.
        nonfinite: infinite or NaN elements of the converted tensors that have any.
    """

    sources: tuple[str, ...]
    tensors: dict[str, str]
    files: dict[str, int]
    nonfinite: dict[str, int]


@dataclass(frozen=True)
class Conversion:
    """What to convert.

    Attributes:
        files: the checkpoint's.
        mappings: its tensors and what becomes of them.
        dtype: of the converted tensors.
        adapter: is merged into them, if there is one.
        scale: of the adapter: alpha / rank.
        known: digests of those of the checkpoint's files that need not be hashed again.
    """

    files: Sequence[SourceFile]
    mappings: Sequence[Mapping]
    dtype: OutputDType = "bfloat16"
    adapter: Adapter | None = None
    scale: float = 1.0
    known: dict[Path, str] = field(default_factory=dict)

    @property
    def all_files(self) -> tuple[SourceFile, ...]:
        """The checkpoint's files and the adapter's."""
        return (*self.files, *(self.adapter.files if self.adapter else ()))


def convert_tensors(
    conversion: Conversion,
    directory: Path,
    *,
    max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES,
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
    progress: Progress | None = None,
) -> Converted:
    """Write ``model*.safetensors`` (and the index of several) into ``directory``.

    Called again with the same arguments after an interruption, it goes on behind the last finished
    shard; if source, plan or kit differ, it starts over. ``directory`` is its own: other files in
    it are removed. Casting rounds to nearest even.

    Raises:
        EnvironmentNotReady: the disk is full; finished shards are kept.
        IntegrityError: a source changed while it was read, or the ranks of a checkpoint disagree
            in a tensor that all of them hold.
    """
    shards = plan_shards(conversion.mappings, conversion.dtype, max_shard_bytes)
    with full_disk_explained(directory.parent, _KEPT):
        journal = open_journal(directory, _key(conversion, shards))
        if journal.sources is None or len(journal.shards) < len(shards):
            left = [shard for shard in shards if shard.name not in journal.shards]
            require_space(
                directory.parent, sum(s.size_bytes for s in left), "the conversion", _KEPT
            )
            journal = _sweep(conversion, shards, directory, journal, chunk_bytes, progress)
            for file in conversion.all_files:
                require_unchanged(file)
            write_journal(directory, journal)
        return _result(directory, shards, journal)


def _sweep(
    conversion: Conversion,
    shards: Sequence[Shard],
    directory: Path,
    journal: Journal,
    chunk_bytes: int,
    progress: Progress | None,
) -> Journal:
    todo = [shard for shard in shards if shard.name not in journal.shards]
    merging = conversion.adapter is not None
    expected = (
        request
        for shard in todo
        for copy in shard.copies
        for request in requests(copy.source, item_bytes(copy, merging), chunk_bytes)
    )
    with (
        Sweep(conversion.files, chunk_bytes, progress, expected, conversion.known) as sweep,
        _open_adapter(conversion, chunk_bytes) as (merge, adapter_sweep),
        closing(Buffers(chunk_bytes, OUTPUT_BUFFERS)) as buffers,
    ):
        source = Gatherer(sweep.read, chunk_bytes)
        for shard in todo:
            with ShardFile(directory, shard, buffers) as file:
                for copy in shard.copies:
                    file.copy(copy, source, merge)
                record = file.finish()
            journal = replace(journal, shards=journal.shards | {shard.name: record})
            write_journal(directory, journal)
        digests = sweep.finish() + (adapter_sweep.finish() if adapter_sweep else ())
        return replace(journal, sources=digests)


@contextmanager
def _open_adapter(
    conversion: Conversion, chunk_bytes: int
) -> Iterator[tuple[Merge | None, Sweep | None]]:
    if conversion.adapter is None:
        yield None, None
        return
    chunk_bytes = min(chunk_bytes, ADAPTER_CHUNK_BYTES)
    with Sweep(conversion.adapter.files, chunk_bytes) as sweep:
        source = Gatherer(sweep.read, chunk_bytes)
        yield Merge(conversion.adapter, conversion.scale, source), sweep


def _result(directory: Path, shards: Sequence[Shard], journal: Journal) -> Converted:
    files = {shard.name: shard.size_bytes for shard in shards}
    if len(shards) > 1:
        index = index_json(shards)
        write_durably(directory / INDEX_NAME, index)
        files[INDEX_NAME] = len(index)
    records = journal.shards.values()
    return Converted(
        sources=journal.sources or (),
        tensors={name: digest for record in records for name, digest in record.tensors.items()},
        files=files,
        nonfinite={name: count for record in records for name, count in record.nonfinite.items()},
    )


def _key(conversion: Conversion, shards: Sequence[Shard]) -> str:
    """Changes whenever a finished shard of an earlier try could be of no use."""
    facts: list[object] = [kit.__version__]
    facts += [[f.size_bytes, f.mtime_ns, f.fingerprint] for f in conversion.all_files]
    facts += [len(conversion.files), conversion.scale]
    headers = [[shard.name, hashlib.sha256(shard.header).hexdigest()] for shard in shards]
    return hashlib.sha256(json.dumps([facts, headers]).encode()).hexdigest()
