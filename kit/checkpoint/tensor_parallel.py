"""Upstream's tensor-parallel shards: which rank holds which block of a tensor.

Rank r of P holds block r of P equal blocks of

- the rows of the embedding table, of ``dense_h_to_4h`` (a pair of interleaved rows stays together)
  and of the output factor B of their adapters;
- each third (query, key, value) of the rows of ``query_key_value``, one after the other;
- the columns of ``self_attention.dense`` and ``dense_4h_to_h``, and of their adapters' factor A.

Everything else is the same on all ranks: LayerNorms, the biases of the two column-wise matrices and
the other factor of each adapter. The rules are those of upstream's ``tools/weight_convert`` and
parallel layers.
"""

import re
from collections.abc import Sequence
from typing import Literal

from kit.checkpoint.layout import Piece, Tensor, in_one_place, matrix, whole
from kit.checkpoint.torchfile import ITEM_BYTES, CheckpointFile, TensorEntry
from kit.errors import IntegrityError

Rule = Literal["rows", "thirds", "columns", "replicated"]

_RULES: tuple[tuple[str, Rule], ...] = (
    (r"word_embeddings\.weight", "rows"),
    (r"query_key_value\.(weight|bias)", "thirds"),
    (r"query_key_value\.lora_B_[QKV]\.weight", "rows"),
    (r"dense_h_to_4h\.(weight|bias|lora_B\.weight)", "rows"),
    (r"(self_attention\.dense|dense_4h_to_h)\.(weight|lora_A\.weight)", "columns"),
)
_COMPILED = tuple((re.compile(r"(.*\.)?" + pattern), rule) for pattern, rule in _RULES)
_SQUARE = "encoder.layers.0.self_attention.dense.weight"
_ONE_PLACE = "the shards are not of one checkpoint: get all of them again from one place"


def rule_of(name: str) -> Rule:
    """How the tensor with this upstream name is divided."""
    return next((rule for pattern, rule in _COMPILED if pattern.fullmatch(name)), "replicated")


def regions(
    rule: Rule, rows: int, columns: int, rank: int, ranks: int
) -> tuple[tuple[range, range], ...]:
    """The rows and columns of a whole tensor that a rank holds, in the order of its shard.

    Args:
        rule: how the tensor is divided.
        rows: of the whole tensor seen as a matrix.
        columns: likewise.
        rank: from 0.
        ranks: how many there are; they divide what is cut.
    """
    if rule == "rows":
        return ((_block(rows, 0, rank, ranks), range(columns)),)
    if rule == "thirds":
        third = rows // 3
        return tuple((_block(third, i * third, rank, ranks), range(columns)) for i in range(3))
    if rule == "columns":
        return ((range(rows), _block(columns, 0, rank, ranks)),)
    return ((range(rows), range(columns)),)


def whole_shape(rule: Rule, shape: tuple[int, ...], ranks: int) -> tuple[int, ...]:
    """The shape of the whole tensor whose share on one rank has ``shape``."""
    if rule == "columns":
        return (*shape[:-1], shape[-1] * ranks)
    return shape if rule == "replicated" else (shape[0] * ranks, *shape[1:])


def share_shape(rule: Rule, shape: tuple[int, ...], ranks: int) -> tuple[int, ...]:
    """The shape of one rank's share of a tensor of ``shape``."""
    if rule == "columns":
        return (*shape[:-1], shape[-1] // ranks)
    return shape if rule == "replicated" else (shape[0] // ranks, *shape[1:])


def merge_ranks(files: Sequence[CheckpointFile]) -> tuple[Tensor, ...]:
    """The whole tensors of a checkpoint or adapter, from the files of all ranks in rank order.

    Raises:
        IntegrityError: ranks are missing or too many, or disagree in tensors, types or shapes.
            Whether replicated tensors are equal shows when they are read.
    """
    _require_all_ranks(files)
    first, *others = files
    if not others:
        return tuple(in_one_place(entry) for entry in first.tensors)
    for other in others:
        _require_alike(first, other)
    by_name = [{entry.name: entry for entry in file.tensors} for file in files]
    return tuple(_merged([entries[t.name] for entries in by_name]) for t in first.tensors)


def _merged(shares: Sequence[TensorEntry]) -> Tensor:
    entry = shares[0]
    rule = rule_of(entry.name)
    if rule == "replicated":
        copies = tuple(whole(share) for share in shares[1:])
        return Tensor(entry.name, entry.dtype, entry.shape, (whole(entry),), copies)
    if len(entry.shape) < (2 if rule == "columns" else 1) or (
        rule == "thirds" and entry.shape[0] % 3
    ):
        raise IntegrityError(
            f"{entry.path}: {entry.name} cannot have the shape {list(entry.shape)}",
            hint="give shards as upstream's deepspeed-megatron writes them",
        )
    shape = whole_shape(rule, entry.shape, len(shares))
    pieces = []
    for rank, share in enumerate(shares):
        offset = share.offset
        for rows, columns in regions(rule, *matrix(shape), rank, len(shares)):
            pieces.append(Piece(share.path, offset, rows, columns))
            offset += len(rows) * len(columns) * ITEM_BYTES[entry.dtype]
    return Tensor(entry.name, entry.dtype, shape, tuple(pieces))


def _require_all_ranks(files: Sequence[CheckpointFile]) -> None:
    """Check the number of files against a matrix that is square before it is cut in columns."""
    square = next((t for t in files[0].tensors if t.name == _SQUARE), None)
    if square is None or len(square.shape) != 2 or 0 in square.shape:
        return
    rows, columns = square.shape
    if rows % columns or (ranks := rows // columns) == len(files):
        return
    folder = files[0].path.parent
    if ranks < len(files):
        raise IntegrityError(
            f"{folder} holds {len(files)} shards of a checkpoint that was cut into {ranks}",
            hint=f"remove those that do not belong to it: rank {ranks:02d} and above",
        )
    raise IntegrityError(
        f"{folder} holds {len(files)} of {ranks} tensor-parallel shards",
        hint=f"all must be in one folder, mp_rank_00 to mp_rank_{ranks - 1:02d}; "
        f"missing: rank {len(files):02d} and above",
    )


def _require_alike(first: CheckpointFile, other: CheckpointFile) -> None:
    expected, found = ({entry.name: entry for entry in file.tensors} for file in (first, other))
    for lacking, having, missing in (
        (other, first, expected.keys() - found.keys()),
        (first, other, found.keys() - expected.keys()),
    ):
        if missing:
            raise IntegrityError(
                f"{lacking.path.name} lacks {min(missing)}, which {having.path.name} holds",
                hint=_ONE_PLACE,
            )
    for name, entry in expected.items():
        here, there = (f"{e.dtype} {list(e.shape)}" for e in (entry, found[name]))
        if here != there:
            raise IntegrityError(
                f"{name} is {here} in {first.path.name} but {there} in {other.path.name}",
                hint=_ONE_PLACE,
            )


def _block(length: int, start: int, rank: int, ranks: int) -> range:
    size = length // ranks
    return range(start + rank * size, start + (rank + 1) * size)
