"""Proof that converted tensors equal their source: both are read again, and compared bit for bit.

What is compared are the files that lie there, not what was meant to be written, and the rounding is
computed in another way than the conversion does it. Which rows make up which tensor is taken from
the same mapping.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from kit.checkpoint.convert import DEFAULT_CHUNK_BYTES
from kit.checkpoint.encoding import NUMPY, Array
from kit.checkpoint.gather import Block, FileReader, Gatherer, requests, wanted
from kit.checkpoint.layout import Mapping, Part, matrix
from kit.checkpoint.shards import index_directory
from kit.checkpoint.source import Progress, SourceFile, Sweep
from kit.checkpoint.torchfile import ITEM_BYTES, TensorEntry
from kit.errors import IntegrityError

_AGAIN = "remove the directory and convert the checkpoint again"
_FP32_BYTES = 4


@dataclass(frozen=True)
class _Output:
    """A converted tensor as its file holds it, and the rows of the source that it is made of."""

    part: Part
    entry: TensorEntry
    columns: int


def compare(
    files: Sequence[SourceFile],
    mappings: Sequence[Mapping],
    directory: Path,
    dtype: Literal["bfloat16", "float32"],
    *,
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
    progress: Progress | None = None,
) -> int:
    """Compare every element of every tensor of a converted directory with its source.

    Takes the memory of some eight chunks, whatever the size.

    Args:
        files: the checkpoint's.
        mappings: its tensors and what became of them.
        directory: holds the safetensors files.
        dtype: of all converted tensors.
        chunk_bytes: the largest piece that is read at once.
        progress: told the bytes done of the source.

    Returns:
        How many tensors are equal: all of them.

    Raises:
        IntegrityError: a tensor is missing, left over, of another type or shape, or differs; it
            names the tensor and the place.
    """
    stored = index_directory(directory)
    _require_names({part.name for mapping in mappings for part in mapping.parts}, set(stored))
    ordered = sorted(mappings, key=lambda mapping: mapping.source.pieces[0].offset)
    expected = (r for m in ordered for r in requests(m.source, _FP32_BYTES, chunk_bytes))
    known = {file.path: "not wanted" for file in files}
    with (
        Sweep(files, chunk_bytes, progress, expected, known) as sweep,
        FileReader(chunk_bytes) as reader,
    ):
        source = Gatherer(sweep.read, chunk_bytes)
        for mapping in ordered:
            outputs = [_output(mapping, part, stored[part.name], dtype) for part in mapping.parts]
            for block, values in source.blocks(mapping.source, _FP32_BYTES):
                for output in outputs:
                    _compare_block(output, block, values, reader)
        sweep.finish()
    return len(stored)


def nearest_bfloat16(values: Array) -> Array:
    """The upper 16 bits of fp32 values rounded to nearest even, as uint16; wrong for NaN."""
    bits = values.view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += bits
    rounded += np.uint32(0x7FFF)
    return rounded.view(np.uint16)[1::2]


def _output(mapping: Mapping, part: Part, entry: TensorEntry, dtype: str) -> _Output:
    shape = (len(part.rows), *mapping.source.shape[1:])
    if (entry.dtype, entry.shape) != (dtype, shape):
        raise IntegrityError(
            f"{entry.path.name}: {part.name} is {entry.dtype} {list(entry.shape)} instead of "
            f"{dtype} {list(shape)}",
            hint=_AGAIN,
        )
    return _Output(part, entry, matrix(shape)[1])


def _compare_block(output: _Output, block: Block, values: Array, reader: FileReader) -> None:
    rows, position = wanted(output.part.rows, block.first_row, block.last_row)
    if not rows:
        return
    chosen = values[rows.start : rows.stop : rows.step].astype(np.float32, copy=False).reshape(-1)
    entry, first = output.entry, position * output.columns + block.first_column
    item_bytes = ITEM_BYTES[entry.dtype]
    raw = reader.read(entry.path, entry.offset + first * item_bytes, chosen.size * item_bytes)
    place = _first_difference(chosen, raw.view(NUMPY[entry.dtype]))
    if place is not None:
        row, column = divmod(first + place, output.columns)
        raise IntegrityError(
            f"{entry.path.name}: {entry.name} differs from its source at row {row}, "
            f"column {column}",
            hint=_AGAIN,
        )


def _first_difference(source: Array, found: Array) -> int | None:
    """Where ``found`` is not ``source`` (fp32), rounded if it is bfloat16. NaN equals NaN."""
    if found.dtype == NUMPY["bfloat16"]:
        expected, bits = nearest_bfloat16(source), found.view(np.uint16)
    else:
        expected, bits = source.view(np.uint32), found.view(np.uint32)
    if np.array_equal(expected, bits):
        return None
    differs = (expected != bits) & ~(np.isnan(source) & np.isnan(found))
    return int(np.argmax(differs)) if differs.any() else None


def _require_names(expected: set[str], found: set[str]) -> None:
    for names, what in ((expected - found, "lacks"), (found - expected, "has, beyond the source,")):
        if names:
            raise IntegrityError(
                f"the directory {what} {len(names)} tensors, the first is {min(names)}", hint=_AGAIN
            )
