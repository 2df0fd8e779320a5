"""Back to upstream's own files: from a converted directory to tensor-parallel shards, in chunks.

Each of upstream's tensors is joined from ours (query, key and value; the interleaved rows of gate
and up projection) block by block, and each block goes to the ranks that hold its parts.
"""

import math
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self, TypeAlias

import numpy as np

from kit.checkpoint.encoding import NUMPY, Array, cast_into, count_nonfinite
from kit.checkpoint.gather import Block, FileReader, Gatherer, share_of
from kit.checkpoint.layout import (
    Dimensions,
    Part,
    Piece,
    Tensor,
    expected_tensors,
    matrix,
    matrix_shape,
    refuse,
)
from kit.checkpoint.pages import PageRelease
from kit.checkpoint.source import Progress
from kit.checkpoint.tensor_parallel import regions, rule_of, share_shape
from kit.checkpoint.torchfile import ITEM_BYTES, DType, TensorEntry
from kit.errors import IntegrityError, UsageError
from kit.units import MIB

Tree: TypeAlias = Mapping[str, "tuple[int, ...] | Tree"]
"""What a file holds: dictionaries, and at the leaves the shapes of tensors."""

Write: TypeAlias = Callable[[memoryview], None]

_TOP = "archive"
_ALIGNMENT = 64
ZIP64_FROM_BYTES = 2**31 - 2**20
_LOCAL_HEADER_BYTES, _EXTRA_HEADER_BYTES, _ZIP64_EXTRA_BYTES = 30, 4, 20
_STORAGES: dict[DType, bytes] = {
    "float32": b"FloatStorage",
    "float16": b"HalfStorage",
    "bfloat16": b"BFloat16Storage",
}


class TorchWriter:
    """A torch file being written. Use as a context manager; an existing file is replaced.

    Args:
        path: the file.
        tree: its content. The leaves must then be written one by one, in this order.
        dtype: of all tensors.
    """

    def __init__(self, path: Path, tree: Tree, dtype: DType) -> None:
        self._item_bytes = ITEM_BYTES[dtype]
        self._count = 0
        self._file = path.open("wb")
        os.fchmod(self._file.fileno(), 0o644)
        self._release = PageRelease(self._file.fileno())
        self._zip = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED)
        self._zip.writestr(_undated("data.pkl"), pickled(tree, dtype))
        self._zip.writestr(_undated("byteorder"), "little")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._zip.writestr(_undated("version"), "3\n")
            self._zip.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._release.finish()
        finally:
            self._file.close()

    @contextmanager
    def tensor(self, shape: tuple[int, ...]) -> Iterator[Write]:
        """The next tensor; what it gives writes the next of its bytes, row by row."""
        nbytes = math.prod(shape) * self._item_bytes
        member = self._next_member(nbytes > ZIP64_FROM_BYTES)
        with self._zip.open(member, "w", force_zip64=nbytes > ZIP64_FROM_BYTES) as opened:

            def write(data: memoryview) -> None:
                offset = self._file.tell()
                opened.write(data)
                self._release.passed(offset, len(data))

            yield write

    def _next_member(self, zip64: bool) -> zipfile.ZipInfo:
        """The next tensor's, whose data start on a multiple of 64 bytes, as torch aligns them."""
        name = f"{_TOP}/data/{self._count}"
        self._count += 1
        start = self._file.tell() + _LOCAL_HEADER_BYTES + len(name) + _EXTRA_HEADER_BYTES
        padding = -(start + _ZIP64_EXTRA_BYTES * zip64) % _ALIGNMENT
        member = zipfile.ZipInfo(name)
        member.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
        return member


def _undated(name: str) -> zipfile.ZipInfo:
    """A member without the time of day, so that equal tensors make equal files."""
    return zipfile.ZipInfo(f"{_TOP}/{name}")


def pickled(tree: Tree, dtype: DType) -> bytes:
    """The content of ``data.pkl``, protocol 2; storages are named 0, 1, 2… in the tree's order."""
    keys = iter(range(2**31))
    return b"\x80\x02" + _dictionary(tree, dtype, keys) + b"."


def _dictionary(tree: Tree, dtype: DType, keys: Iterator[int]) -> bytes:
    items = (
        _plain(name)
        + (
            _tensor(value, dtype, str(next(keys)))
            if isinstance(value, tuple)
            else _dictionary(value, dtype, keys)
        )
        for name, value in tree.items()
    )
    return b"}(" + b"".join(items) + b"u"


def _tensor(shape: tuple[int, ...], dtype: DType, key: str) -> bytes:
    """``_rebuild_tensor_v2(storage, 0, shape, stride, False, OrderedDict())``."""
    stride = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    kind = b"ctorch\n" + _STORAGES[dtype] + b"\n"
    storage = b"(" + _plain("storage") + kind + _plain(key) + _plain("cpu")
    storage += _plain(math.prod(shape)) + b"tQ"
    view = _plain(0) + _plain(shape) + _plain(stride) + b"\x89"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + view
        + b"ccollections\nOrderedDict\n)RtR"
    )


def _plain(value: object) -> bytes:
    """The instructions that build text, a number or a tuple of numbers."""
    return pickle.dumps(value, 2)[2:-1]


CHUNK_BYTES = 8 * MIB
_LAYER_NAME = re.compile(r"model\.layers\.(0|[1-9]\d{0,5})\.")
_HINT = "give a directory that `kit weights convert` made, in 16 or 32 bit"


def upstream_tensors(entries: Mapping[str, TensorEntry]) -> tuple[Dimensions, tuple[Tensor, ...]]:
    """Upstream's tensors, by upstream's names, as joined from a converted directory's.

    Raises:
        IntegrityError: tensors are missing, unknown, or of shapes or types that disagree.
    """
    dimensions = _dimensions({name: entry.shape for name, entry in entries.items()})
    expected = list(expected_tensors(dimensions))
    names = {part.name for _, _, parts in expected for part in parts}
    refuse(sorted(names - entries.keys()), "the directory lacks", _HINT)
    refuse(sorted(entries.keys() - names), "the directory has unknown tensors", _HINT)
    return dimensions, tuple(
        _joined(name, shape, parts, entries) for name, shape, parts in expected
    )


def export_shards(
    tensors: Sequence[Tensor],
    paths: Sequence[Path],
    dtype: DType,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    progress: Progress | None = None,
) -> int:
    """Write upstream's tensors into one file for each rank.

    Memory does not depend on the size of the model or of a tensor: three buffers of
    ``chunk_bytes``. Casting rounds to nearest even.

    Args:
        tensors: from ``upstream_tensors``.
        paths: the files to write, in the order of the ranks.
        dtype: of the files' tensors.
        chunk_bytes: how much is read at once.
        progress: called as ``progress(done_bytes, total_bytes)`` of what is read.

    Returns:
        How many infinite or NaN elements were written.

    Raises:
        UsageError: the ranks do not divide a dimension.
    """
    shapes = {t.name: share_shape(rule_of(t.name), t.shape, len(paths)) for t in tensors}
    _require_division(tensors, len(paths))
    total_bytes = sum(_nbytes(tensor) for tensor in tensors)
    done_bytes = nonfinite_count = 0
    with ExitStack() as stack:
        reader = stack.enter_context(FileReader(chunk_bytes))
        tree = _tree(shapes)
        files = [stack.enter_context(TorchWriter(path, tree, dtype)) for path in paths]
        scatter = _Scatter(Gatherer(reader.read, chunk_bytes), dtype)
        for tensor in tensors:
            with ExitStack() as members:
                shape = shapes[tensor.name]
                writes = [members.enter_context(file.tensor(shape)) for file in files]
                nonfinite_count += scatter.write(tensor, writes)
            done_bytes += _nbytes(tensor)
            if progress:
                progress(done_bytes, total_bytes)
    return nonfinite_count


class _Scatter:
    """Reads tensors and gives each rank its share, cast."""

    def __init__(self, source: Gatherer, dtype: DType) -> None:
        self._source = source
        self._dtype: DType = dtype
        self._buffer = np.empty(source.chunk_bytes, np.uint8)

    def write(self, tensor: Tensor, writes: Sequence[Write]) -> int:
        """Write one tensor; returns how many of its elements are not finite."""
        count = 0
        rule = rule_of(tensor.name)
        for block, values in self._source.blocks(tensor, ITEM_BYTES[self._dtype]):
            for rank, write in enumerate(writes):
                places = regions(rule, *matrix(tensor.shape), rank, len(writes))
                for rows, columns in places:
                    cast = self._cast(rows, columns, block, values)
                    write(cast.view(np.uint8).data)
                    if rank == 0 or rule != "replicated":
                        count += count_nonfinite(cast, self._dtype)
        return count

    def _cast(self, rows: range, columns: range, block: Block, values: Array) -> Array:
        share = share_of(rows, columns, block)
        raw = self._buffer[: share.size * ITEM_BYTES[self._dtype]]
        cast = raw.view(NUMPY[self._dtype])
        cast_into(cast.reshape(share.shape), values[share.rows, share.columns])
        return cast


def _dimensions(shapes: Mapping[str, tuple[int, ...]]) -> Dimensions:
    layers = {match[1] for name in shapes if (match := _LAYER_NAME.match(name))}
    vocab_size, hidden_size = matrix_shape(shapes, "model.embed_tokens.weight", _HINT)
    _, ffn_size = matrix_shape(shapes, "model.layers.0.mlp.down_proj.weight", _HINT)
    return Dimensions(len(layers), hidden_size, ffn_size, vocab_size)


def _joined(
    name: str, shape: tuple[int, ...], parts: Sequence[Part], entries: Mapping[str, TensorEntry]
) -> Tensor:
    columns = range(matrix(shape)[1])
    found = [entries[part.name] for part in parts]
    for part, entry in zip(parts, found, strict=True):
        if entry.shape != (len(part.rows), *shape[1:]) or entry.dtype != found[0].dtype:
            raise IntegrityError(
                f"{entry.name} is {entry.dtype} {list(entry.shape)}, where "
                f"{found[0].dtype} {[len(part.rows), *shape[1:]]} is needed",
                hint=_HINT,
            )
    pieces = (
        Piece(entry.path, entry.offset, part.rows, columns)
        for part, entry in zip(parts, found, strict=True)
    )
    return Tensor(name, found[0].dtype, shape, tuple(pieces))


def _require_division(tensors: Sequence[Tensor], ranks: int) -> None:
    for tensor in tensors:
        rule = rule_of(tensor.name)
        cut = {"rows": tensor.shape[0], "thirds": tensor.shape[0] // 3}
        length = cut.get(rule, tensor.shape[-1] if rule == "columns" else ranks)
        paired = 2 if "dense_h_to_4h" in tensor.name else 1
        if length % (ranks * paired):
            raise UsageError(
                f"{ranks} ranks do not divide {tensor.name} {list(tensor.shape)}",
                hint="choose a number that divides the vocabulary, the hidden size and the MLP",
            )


def _tree(shapes: Mapping[str, tuple[int, ...]]) -> Tree:
    """As upstream nests them: ``encoder`` is flat, the embedding table has levels of its own."""
    encoder, embedding = "encoder.", "embedding.word_embeddings."
    return {
        "module": {
            "language_model": {
                "embedding": {"word_embeddings": _below(shapes, embedding)},
                "encoder": _below(shapes, encoder),
            }
        }
    }


def _below(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> dict[str, tuple[int, ...]]:
    return {n.removeprefix(prefix): shape for n, shape in shapes.items() if n.startswith(prefix)}


def _nbytes(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * ITEM_BYTES[tensor.dtype]
