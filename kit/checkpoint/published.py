"""Models as their hub publishes them: flat state dicts in ``.bin`` shards, with an index.

What each family's published tensors are called, and what becomes of them. Baichuan2-13B has query,
key and value as one matrix, in three thirds of its rows; ChatGLM-6B has them side by side within
each head, and publishes the head beside the embedding table, to which it is tied.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from kit.checkpoint.layout import (
    Dimensions,
    Part,
    Piece,
    Tensor,
    in_one_place,
    matrix_shape,
    refuse,
    whole,
)
from kit.checkpoint.layout import Mapping as TensorMapping
from kit.checkpoint.torchfile import ITEM_BYTES, CheckpointFile, TensorEntry
from kit.errors import EnvironmentNotReady, IntegrityError, UsageError, printable
from kit.files import inner_path
from kit.records import read_object

INDEX_NAME = "pytorch_model.bin.index.json"
FamilyName = Literal["baichuan2", "chatglm"]
Expected = Iterator[tuple[str, tuple[int, ...], tuple[Part, ...]]]
_HINT = "give the folder as its hub publishes it, all shards and the index included"
_LAYER = re.compile(r"(?:model|transformer)\.layers\.(0|[1-9]\d{0,5})\.")


@dataclass(frozen=True)
class Family:
    """One family's published tensors.

    Attributes:
        mark: a tensor that no other family has.
        embedding, narrow: tensors whose shapes tell vocabulary, width and the MLP's width.
        expected: name, shape and parts of every tensor, for dimensions and heads.
        ignored: names of what is no weight.
        tied: a further copy of the embedding table.
    """

    name: FamilyName
    mark: str
    embedding: str
    narrow: str
    expected: Callable[[Dimensions], Expected]
    ignored: re.Pattern[str] | None = None
    tied: str | None = None


def find_shards(folder: Path) -> tuple[Path, ...]:
    """The shards that the index of ``folder`` names, in the order of their names; none without one.

    Raises:
        IntegrityError: the index is damaged, or names a file outside of the folder.
        EnvironmentNotReady: a shard is missing.
    """
    if not (folder / INDEX_NAME).is_file():
        return ()
    try:
        names = sorted(set(read_object(folder / INDEX_NAME)["weight_map"].values()))
        shards = tuple(folder / inner_path(name) for name in names)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{folder / INDEX_NAME} is damaged: {error}", hint=_HINT) from error
    missing = [path.name for path in shards if not path.is_file()]
    if missing:
        shown = ", ".join(map(printable, missing[:3])) + (", …" if len(missing) > 3 else "")
        raise EnvironmentNotReady(f"{folder} lacks {shown}", hint=_HINT)
    return shards


def family_of(files: Sequence[CheckpointFile]) -> Family | None:
    """The family that the files' tensors are of; None: none that is published so."""
    names = {entry.name for file in files for entry in file.tensors}
    return next((family for family in FAMILIES if family.mark in names), None)


def map_published(
    family: Family, files: Sequence[CheckpointFile], config: Mapping[str, Any]
) -> tuple[Dimensions, tuple[TensorMapping, ...]]:
    """Map the files' tensors to the model's.

    Args:
        config: the published one, whose number of heads cuts ChatGLM-6B's packed projections.

    Raises:
        IntegrityError: tensors are missing, unknown, there twice, or of shapes that disagree.
        UsageError: the configuration does not say into how many heads the model is cut.
    """
    entries: dict[str, TensorEntry] = {}
    for entry in (entry for file in files for entry in file.tensors):
        if family.ignored and family.ignored.fullmatch(entry.name):
            continue
        if entry.name in entries:
            raise IntegrityError(f"two shards hold {printable(entry.name)}", hint=_HINT)
        entries[entry.name] = entry
    shapes = {name: entry.shape for name, entry in entries.items()}
    layers = {match[1] for name in shapes if (match := _LAYER.match(name))}
    vocabulary, hidden = matrix_shape(shapes, family.embedding, _HINT)
    _, ffn = matrix_shape(shapes, family.narrow, _HINT)
    dimensions = Dimensions(len(layers), hidden, ffn, vocabulary)
    expected = {name: (shape, parts) for name, shape, parts in family.expected(dimensions)}
    tied = entries.pop(family.tied, None) if family.tied else None
    refuse(sorted(expected.keys() - entries.keys()), "the checkpoint lacks", _HINT)
    refuse(sorted(entries.keys() - expected.keys()), "the checkpoint has unknown tensors", _HINT)
    refuse(
        [
            f"{name} {list(shapes[name])} instead of {list(shape)}"
            for name, (shape, _) in expected.items()
            if shapes[name] != shape
        ],
        "tensors disagree in shape",
        _HINT,
    )
    tensors = {name: in_one_place(entry) for name, entry in entries.items()}
    if tied is not None:
        table = tensors[family.embedding]
        if (tied.shape, tied.dtype) != (table.shape, table.dtype):
            refuse([tied.name], "not a copy of the embedding table", _HINT)
        tensors[family.embedding] = replace(table, copies=(whole(tied),))
    if family.name == "chatglm":
        heads = _heads(config, hidden)
        packed = [name for name in tensors if ".query_key_value." in name]
        tensors |= {name: _by_kind(entries[name], heads) for name in packed}
    return dimensions, tuple(TensorMapping(tensors[name], expected[name][1]) for name in tensors)


def _heads(config: Mapping[str, Any], hidden: int) -> int:
    heads = config.get("num_attention_heads")
    if type(heads) is not int or heads < 1 or hidden % heads:
        raise UsageError(
            f"num_attention_heads is {heads!r}, which does not cut {hidden} channels",
            hint="put the published config.json beside the shards",
        )
    return heads


def _by_kind(entry: TensorEntry, heads: int) -> Tensor:
    """A tensor whose rows are query, key and value within each head: all queries come first."""
    rows = entry.shape[0]
    width = rows // (3 * heads)
    columns = range(entry.shape[1] if len(entry.shape) > 1 else 1)
    row_bytes = len(columns) * ITEM_BYTES[entry.dtype]
    pieces = []
    for head in range(heads):
        for kind in range(3):
            offset = entry.offset + (head * 3 + kind) * width * row_bytes
            first = kind * heads * width + head * width
            pieces.append(Piece(entry.path, offset, range(first, first + width), columns))
    return Tensor(entry.name, entry.dtype, entry.shape, tuple(pieces))


def _thirds(prefix: str, kind: str, rows: int) -> tuple[Part, ...]:
    """Query, key and value, each a third of the rows."""
    third = rows // 3
    return tuple(
        Part(f"{prefix}self_attn.{letter}_proj.{kind}", range(number * third, (number + 1) * third))
        for number, letter in enumerate("qkv")
    )


def _whole(name: str, rows: int) -> tuple[Part, ...]:
    return (Part(name, range(rows)),)


def _baichuan2(dimensions: Dimensions) -> Expected:
    hidden, ffn, vocabulary = dimensions.hidden_size, dimensions.ffn_size, dimensions.vocab_size
    yield (
        "model.embed_tokens.weight",
        (vocabulary, hidden),
        _whole("model.embed_tokens.weight", vocabulary),
    )
    for layer in range(dimensions.layers):
        prefix = f"model.layers.{layer}."
        packed = (3 * hidden, hidden)
        yield f"{prefix}self_attn.W_pack.weight", packed, _thirds(prefix, "weight", 3 * hidden)
        for name, shape in {
            "input_layernorm.weight": (hidden,),
            "self_attn.o_proj.weight": (hidden, hidden),
            "post_attention_layernorm.weight": (hidden,),
            "mlp.gate_proj.weight": (ffn, hidden),
            "mlp.up_proj.weight": (ffn, hidden),
            "mlp.down_proj.weight": (hidden, ffn),
        }.items():
            yield prefix + name, shape, _whole(prefix + name, shape[0])
    yield "model.norm.weight", (hidden,), _whole("model.norm.weight", hidden)
    yield "lm_head.weight", (vocabulary, hidden), _whole("lm_head.weight", vocabulary)


def _chatglm(dimensions: Dimensions) -> Expected:
    hidden, ffn, vocabulary = dimensions.hidden_size, dimensions.ffn_size, dimensions.vocab_size
    yield (
        "transformer.word_embeddings.weight",
        (vocabulary, hidden),
        _whole("model.embed_tokens.weight", vocabulary),
    )
    for layer in range(dimensions.layers):
        theirs, ours = f"transformer.layers.{layer}.", f"model.layers.{layer}."
        for their_name, our_name, shape in (
            ("input_layernorm", "input_layernorm", (hidden,)),
            ("attention.query_key_value", None, (3 * hidden, hidden)),
            ("attention.dense", "self_attn.o_proj", (hidden, hidden)),
            ("post_attention_layernorm", "post_attention_layernorm", (hidden,)),
            ("mlp.dense_h_to_4h", "mlp.up_proj", (ffn, hidden)),
            ("mlp.dense_4h_to_h", "mlp.down_proj", (hidden, ffn)),
        ):
            for kind, size in (("weight", shape), ("bias", shape[:1])):
                if our_name is None:
                    parts = _thirds(ours, kind, shape[0])
                else:
                    parts = _whole(f"{ours}{our_name}.{kind}", shape[0])
                yield f"{theirs}{their_name}.{kind}", size, parts
    for kind in ("weight", "bias"):
        name = f"transformer.final_layernorm.{kind}"
        yield name, (hidden,), _whole(f"model.norm.{kind}", hidden)


FAMILIES = (
    Family(
        "baichuan2",
        "model.layers.0.self_attn.W_pack.weight",
        "model.embed_tokens.weight",
        "model.layers.0.mlp.down_proj.weight",
        _baichuan2,
        ignored=re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"),
    ),
    Family(
        "chatglm",
        "transformer.layers.0.attention.query_key_value.weight",
        "transformer.word_embeddings.weight",
        "transformer.layers.0.mlp.dense_4h_to_h.weight",
        _chatglm,
        ignored=re.compile(r"transformer\.layers\.\d+\.attention\.rotary_emb\.inv_freq"),
        tied="lm_head.weight",
    ),
)
