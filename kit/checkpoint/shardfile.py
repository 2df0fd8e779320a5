"""Writing one safetensors shard, whose layout was planned, from blocks of source tensors."""

from collections import Counter
from pathlib import Path
from typing import Self

import numpy as np
from blake3 import blake3

from kit.checkpoint.buffers import Buffers
from kit.checkpoint.cast import Array
from kit.checkpoint.chunks import Block, wanted
from kit.checkpoint.direct import NewFile
from kit.checkpoint.gather import Gatherer
from kit.checkpoint.journal import ShardRecord
from kit.checkpoint.lora_merge import MERGED_ITEM_BYTES, Merge
from kit.checkpoint.pages import PAGE_BYTES, Bytes
from kit.checkpoint.shards import Copy, Output, Shard, Target
from kit.checkpoint.tensors import matrix


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
