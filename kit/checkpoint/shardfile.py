"""Writing one safetensors shard, whose layout was planned, from blocks of source tensors."""

import hashlib
import os
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

from kit.checkpoint.cast import Array
from kit.checkpoint.chunks import Block, wanted
from kit.checkpoint.gather import Gatherer
from kit.checkpoint.journal import ShardRecord
from kit.checkpoint.lora_merge import MERGED_ITEM_BYTES, Merge
from kit.checkpoint.pages import PageRelease, write_at
from kit.checkpoint.shards import Copy, Output, Shard, Target
from kit.checkpoint.sweep import Bytes, HashedBuffers
from kit.checkpoint.tensors import matrix


class ShardFile:
    """A shard being written. Use as a context manager; an existing file is replaced."""

    def __init__(self, directory: Path, shard: Shard, buffers: HashedBuffers) -> None:
        self._shard = shard
        self._buffers = buffers
        self._hashes = {target.stored.name: hashlib.sha256() for target in shard.targets}
        self._nonfinite_count = 0
        self._fd = os.open(directory / shard.name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._release = PageRelease(self._fd)

    def __enter__(self) -> Self:
        os.fchmod(self._fd, 0o644)
        os.truncate(self._fd, self._shard.size_bytes)
        write_at(self._fd, self._shard.header, 0)
        for target in self._shard.targets:
            if target.stored.constant is not None:
                write_at(self._fd, target.stored.constant, target.offset)
                self._hashes[target.stored.name].update(target.stored.constant)
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
            copy: the tensor and what becomes of it.
            source: reads the tensor.
            merge: adds an adapter's share, if there is an adapter.
        """
        item_bytes = MERGED_ITEM_BYTES if merge else _item_bytes(copy)
        for block, values in source.blocks(copy.source, item_bytes):
            for output in copy.outputs:
                self._write(output, block, values, merge)

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

    def _write(self, output: Output, block: Block, values: Array, merge: Merge | None) -> None:
        rows, position = wanted(output.rows, block.first_row, block.last_row)
        if not rows:
            return
        chosen = values[rows.start : rows.stop : rows.step]
        if merge:
            chosen = merge.add(output.name, chosen, position, block.first_column)
        raws = self._free_space(len(rows), output.encoding.row_bytes(chosen.shape[1]))
        self._nonfinite_count += output.encoding.encode(chosen, raws)
        skipped = output.encoding.row_bytes(block.first_column)
        for target, raw, before in zip(output.targets, raws, skipped, strict=False):
            row_bytes = target.stored.nbytes // len(output.rows)
            offset = target.offset + position * row_bytes + before
            write_at(self._fd, raw.data.cast("B"), offset)
            self._release.passed(offset, raw.nbytes, written=True)
        self._hash(output.targets, raws)

    def _free_space(self, rows: int, row_bytes: Sequence[int]) -> list[Bytes]:
        """Space ``[rows, n]`` for each n, one behind the other in the next free buffer."""
        buffer = self._buffers.next()
        ends = [rows * end for end in accumulate(row_bytes, initial=0)]
        return [buffer[begin:end].reshape(rows, -1) for begin, end in pairwise(ends)]

    def _hash(self, targets: Sequence[Target], raws: Sequence[Bytes]) -> None:
        """Hash what the buffer was filled with, each tensor's bytes by themselves."""
        hashes = [self._hashes[target.stored.name] for target in targets]

        def update(_: memoryview) -> None:
            for running, raw in zip(hashes, raws, strict=False):
                running.update(raw.data)

        self._buffers.hash(update, raws[0].data)


def _item_bytes(copy: Copy) -> int:
    """What one element takes at most in the file."""
    columns = matrix(copy.source.shape)[1]
    return max(-(-sum(output.encoding.row_bytes(columns)) // columns) for output in copy.outputs)
