"""A checkpoint and a converted directory of any size that take no place: names, shapes and holes.

Everything that reads headers takes them for real ones. Their tensors' bytes are holes in the files
(lseek(2)): zeros if anybody reads them, and no block of the disk.
"""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kit.checkpoint.layout import Dimensions, Mapping, Piece, Tensor, expected_tensors, matrix
from kit.checkpoint.shard_export import ZIP64_FROM_BYTES, TorchWriter, Tree
from kit.checkpoint.shards import INDEX_NAME, Shard, index_json, plan_shards
from kit.memory.plan.shape import DTYPES, Architecture, Precision
from kit.settings import bundled
from kit.weights.convert.facts import model_config
from kit.weights.convert.locate import CHECKPOINT_NAME
from kit.weights.convert.support_files import write_support_files

TOKENIZER = bundled("demo") / "tokenizer" / "tokenizer.model"
"""Stands beside the tensors; nothing is ever tokenised."""


def write_converted(directory: Path, model: Architecture, precision: Precision) -> None:
    """What ``kit weights convert`` would make of the model; ``directory`` is made.

    Raises:
        UsageError: the model's widths cannot be cut into groups for int4.
        IntegrityError: its vocabulary is smaller than the demo's, whose tokenizer it gets.
    """
    directory.mkdir(parents=True)
    dtype = DTYPES[precision]
    config = model_config(model.dimensions, dtype, _arguments(model))
    write_support_files(directory, config, TOKENIZER)
    shards = plan_shards(tuple(mappings(model.dimensions)), dtype, converted=False)
    for shard in shards:
        _write_shard(directory / shard.name, shard)
    if len(shards) > 1:
        (directory / INDEX_NAME).write_bytes(index_json(shards))


def write_checkpoint(directory: Path, model: Architecture) -> None:
    """What upstream has published of the model: one fp32 file; ``directory`` is made."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(_arguments(model)), encoding="utf-8")
    (directory / "tokenizer.model").write_bytes(TOKENIZER.read_bytes())
    tree = _tree(model.dimensions)
    with _HollowWriter(directory / CHECKPOINT_NAME, tree, "float32") as writer:
        for shape in _leaves(tree):
            writer.hole(shape)


class _HollowWriter(TorchWriter):
    """Writes a torch file whose tensors are holes."""

    def hole(self, shape: tuple[int, ...]) -> None:
        """The next tensor. Its checksum, which torch.load does not look at, is left out."""
        nbytes = math.prod(shape) * self._item_bytes
        zip64 = nbytes > ZIP64_FROM_BYTES
        member = self._next_member(zip64)
        member.CRC, member.header_offset = 0, self._file.tell()
        member.file_size = member.compress_size = nbytes
        self._file.write(member.FileHeader(zip64))
        self._file.seek(nbytes, os.SEEK_CUR)
        self._zip.filelist.append(member)
        self._zip.NameToInfo[member.filename] = member
        self._zip.start_dir = self._file.tell()


def _arguments(model: Architecture) -> dict[str, Any]:
    """By the names of upstream's arguments."""
    return {
        "num_attention_heads": model.heads,
        "seq_length": model.max_context,
        "max_position_embeddings": model.max_context,
        "localsize": model.window,
    }


def mappings(dimensions: Dimensions) -> Iterator[Mapping]:
    """Those of a checkpoint whose tensors follow one another in a file that need not exist."""
    offset = 0
    for name, shape, parts in expected_tensors(dimensions):
        rows, columns = matrix(shape)
        piece = Piece(Path("none"), offset, range(rows), range(columns))
        yield Mapping(Tensor(name, "float32", shape, (piece,)), parts)
        offset += 4 * math.prod(shape)


def _write_shard(path: Path, shard: Shard) -> None:
    with path.open("wb") as file:
        file.write(shard.header)
        for target in shard.targets:
            if target.stored.constant is not None:
                file.seek(target.offset)
                file.write(target.stored.constant)
        file.truncate(shard.size_bytes)


def _tree(dimensions: Dimensions) -> Tree:
    """Upstream's nested names, with shapes at the leaves."""
    encoder: dict[str, tuple[int, ...]] = {}
    embedding: dict[str, tuple[int, ...]] = {}
    for name, shape, _ in expected_tensors(dimensions):
        place = encoder if name.startswith("encoder.") else embedding
        place[name.partition(".")[2].removeprefix("word_embeddings.")] = shape
    model: Tree = {"embedding": {"word_embeddings": embedding}, "encoder": encoder}
    return {"module": {"language_model": model}}


def _leaves(branch: Tree) -> Iterator[tuple[int, ...]]:
    for value in branch.values():
        yield from [value] if isinstance(value, tuple) else _leaves(value)
