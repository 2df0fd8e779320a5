"""Writing one safetensors shard, whose layout was planned, from blocks of source tensors."""

import hashlib
import math
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from kit.checkpoint.cast import NUMPY, Array, cast_into, count_nonfinite
from kit.checkpoint.chunks import Block, wanted
from kit.checkpoint.gather import Gatherer
from kit.checkpoint.journal import ShardRecord
from kit.checkpoint.lora_merge import MERGED_ITEM_BYTES, Merge
from kit.checkpoint.pages import PageRelease, write_at
from kit.checkpoint.shards import Copy, OutputDType, Shard, Target
from kit.checkpoint.sweep import HashedBuffers
from kit.checkpoint.torchfile import ITEM_BYTES


class ShardFile:
    """A shard being written. Use as a context manager; an existing file is replaced."""

    def __init__(
        self, directory: Path, shard: Shard, dtype: OutputDType, buffers: HashedBuffers
    ) -> None:
        self._shard = shard
        self._dtype: OutputDType = dtype
        self._buffers = buffers
        self._hashes = {t.name: hashlib.sha256() for copy in shard.copies for t in copy.targets}
        self._nonfinite_count = 0
        self._fd = os.open(directory / shard.name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._release = PageRelease(self._fd)

    def __enter__(self) -> Self:
        os.fchmod(self._fd, 0o644)
        os.truncate(self._fd, self._shard.size_bytes)
        write_at(self._fd, self._shard.header, 0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def copy(self, copy: Copy, source: Gatherer, merge: Merge | None = None) -> None:
        """Read one source tensor and write all tensors made of it.

        Args:
            copy: the tensor and its targets.
            source: reads the tensor.
            merge: adds an adapter's share, if there is an adapter.
        """
        item_bytes = MERGED_ITEM_BYTES if merge else ITEM_BYTES[self._dtype]
        for block, values in source.blocks(copy.source, item_bytes):
            for target in copy.targets:
                self._write(target, block, values, merge)

    def finish(self) -> ShardRecord:
        """Wait until the file is on disk and its tensors are hashed."""
        os.fsync(self._fd)
        self._release.finish()
        self._buffers.settle()
        return ShardRecord(
            size_bytes=self._shard.size_bytes,
            tensors={name: running.hexdigest() for name, running in self._hashes.items()},
            nonfinite_count=self._nonfinite_count,
        )

    def _write(self, target: Target, block: Block, values: Array, merge: Merge | None) -> None:
        rows, position = wanted(target.rows, block.first_row, block.last_row)
        if not rows:
            return
        chosen = values[rows.start : rows.stop : rows.step]
        if merge:
            chosen = merge.add(target.name, chosen, position, block.first_column)
        item_bytes = ITEM_BYTES[self._dtype]
        raw = self._buffers.next()[: chosen.size * item_bytes]
        converted = raw.view(NUMPY[self._dtype]).reshape(chosen.shape)
        cast_into(converted, chosen)
        self._nonfinite_count += count_nonfinite(converted, self._dtype)
        width = math.prod(target.shape[1:])
        offset = target.offset + (position * width + block.first_column) * item_bytes
        write_at(self._fd, raw.data, offset)
        self._buffers.hash(self._hashes[target.name].update, raw.data)
        self._release.passed(offset, raw.size, written=True)
