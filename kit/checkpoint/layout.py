"""Tensors joined from pieces, and the mapping from upstream's names to Hugging Face's.

Upstream stores query, key and value as one matrix (three thirds of its rows) and the gated MLP's
two projections as one matrix with interleaved rows: even rows feed the GELU (``gate_proj``), odd
rows are the linear factor (``up_proj``). The output head shares the embedding table and is not
stored. Dimensions are read from the tensors, never assumed.
"""

import math
import re
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Shaped
from dataclasses import dataclass
from pathlib import Path

from kit.checkpoint.torchfile import DType, TensorEntry
from kit.errors import IntegrityError, printable


@dataclass(frozen=True)
class Piece:
    """A rectangle of a tensor: its elements row by row, without gaps, from ``offset`` of a file.

    Attributes:
        rows: the tensor's rows in it, ascending, perhaps with a step.
        columns: the tensor's columns in it, without a step.
    """

    path: Path
    offset: int
    rows: range
    columns: range


@dataclass(frozen=True)
class Tensor:
    """A tensor whose pieces cover it, each element once.

    Attributes:
        copies: further copies of the whole tensor, which must be equal byte for byte.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    copies: tuple[Piece, ...] = ()


def matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a tensor of this shape seen as a matrix."""
    return (shape[0], math.prod(shape[1:])) if shape else (1, 1)


def whole(entry: TensorEntry) -> Piece:
    """The piece that is all of a file's tensor."""
    rows, columns = matrix(entry.shape)
    return Piece(entry.path, entry.offset, range(rows), range(columns))


def in_one_place(entry: TensorEntry) -> Tensor:
    """A file's tensor as a tensor of one piece."""
    return Tensor(entry.name, entry.dtype, entry.shape, (whole(entry),))


Shapes = Shaped[str, tuple[int, ...]]
"""Shapes of tensors by name."""


@dataclass(frozen=True)
class Dimensions:
    """What the tensors' shapes tell. ``ffn_size`` counts the MLP's inner width after gating."""

    layers: int
    hidden_size: int
    ffn_size: int
    vocab_size: int


@dataclass(frozen=True)
class Part:
    """A tensor of the model: ``rows`` (dimension 0) of one upstream tensor, in that order."""

    name: str
    rows: range


@dataclass(frozen=True)
class Mapping:
    """One upstream tensor and the tensors made of it. Every row goes into exactly one part."""

    source: Tensor
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class _Linear:
    """A pair of weight ``[out, in]`` (``[out]`` where ``inner`` is None) and bias ``[out]``.

    ``interleaved`` tells how several targets share the rows: alternating, or in equal blocks.
    """

    upstream: str
    outer: str
    inner: str | None
    targets: tuple[str, ...]
    interleaved: bool = False


_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_GATED = ("mlp.gate_proj", "mlp.up_proj")
_LAYER = (
    _Linear("input_layernorm", "h", None, ("input_layernorm",)),
    _Linear("self_attention.query_key_value", "3h", "h", _QKV),
    _Linear("self_attention.dense", "h", "h", ("self_attn.o_proj",)),
    _Linear("post_attention_layernorm", "h", None, ("post_attention_layernorm",)),
    _Linear("mlp.dense_h_to_4h", "2f", "h", _GATED, interleaved=True),
    _Linear("mlp.dense_4h_to_h", "h", "f", ("mlp.down_proj",)),
)
_FINAL = _Linear("encoder.final_layernorm", "h", None, ("model.norm",))
_EMBEDDING = "embedding.word_embeddings.weight"
_LAYER_NAME = re.compile(r"encoder\.layers\.(0|[1-9]\d{0,5})\.")
_HINT = (
    "give upstream's full checkpoint: one mp_rank_00 file or all tensor-parallel shards, "
    "not a LoRA adapter"
)


def map_tensors(tensors: Sequence[Tensor]) -> tuple[Dimensions, tuple[Mapping, ...]]:
    """Map upstream's tensors to the model's.

    Returns:
        The dimensions, and one mapping per upstream tensor in the order of ``tensors``.

    Raises:
        IntegrityError: tensors are missing, unknown, or of shapes that disagree; it names them.
    """
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    dimensions = _dimensions(shapes)
    expected = {name: (shape, parts) for name, shape, parts in expected_tensors(dimensions)}
    refuse(sorted(expected.keys() - shapes.keys()), "the checkpoint lacks", _HINT)
    unknown = sorted(shapes.keys() - expected.keys())
    refuse(
        [name for name in unknown if name.endswith("rotary_emb.inv_freq")],
        "the checkpoint has rotary frequencies, which the model computes from rope_base",
        "another code saved it: load it with torch, delete these tensors, and save it again; "
        "where its rotary base is not 1e6, say rope_base in config.json",
    )
    refuse(unknown, "the checkpoint has unknown tensors", _HINT)
    refuse(
        [
            f"{name} {list(shapes[name])} instead of {list(shape)}"
            for name, (shape, _) in expected.items()
            if shapes[name] != shape
        ],
        "tensors disagree in shape",
        _HINT,
    )
    return dimensions, tuple(Mapping(t, expected[t.name][1]) for t in tensors)


def expected_tensors(
    dimensions: Dimensions,
) -> Iterator[tuple[str, tuple[int, ...], tuple[Part, ...]]]:
    """Upstream name, shape and parts of every tensor such a model has."""
    hidden, ffn, vocab = dimensions.hidden_size, dimensions.ffn_size, dimensions.vocab_size
    sizes = {"h": hidden, "3h": 3 * hidden, "f": ffn, "2f": 2 * ffn}
    yield _EMBEDDING, (vocab, hidden), (Part("model.embed_tokens.weight", range(vocab)),)
    for layer in range(dimensions.layers):
        for linear in _LAYER:
            yield from _pair(linear, sizes, f"encoder.layers.{layer}.", f"model.layers.{layer}.")
    yield from _pair(_FINAL, sizes, "", "")


def matrix_shape(shapes: Shapes, name: str, hint: str) -> tuple[int, int]:
    """Two dimensions of a tensor. Raises IntegrityError if it is missing or no matrix."""
    if name not in shapes:
        raise IntegrityError(f"the checkpoint lacks {name}", hint=hint)
    shape = shapes[name]
    if len(shape) != 2 or 0 in shape:
        raise IntegrityError(f"{name} has the shape {list(shape)}, not a matrix", hint=hint)
    return shape[0], shape[1]


def refuse(names: list[str], what: str, hint: str) -> None:
    """Raise IntegrityError that says ``what`` of ``names``, if there are any."""
    if names:
        shown = ", ".join(map(printable, names[:5])) + (
            f" and {len(names) - 5} more" if len(names) > 5 else ""
        )
        raise IntegrityError(f"{what}: {shown}", hint=hint)


def _dimensions(shapes: Shapes) -> Dimensions:
    layers = {match[1] for name in shapes if (match := _LAYER_NAME.match(name))}
    vocab_size, hidden_size = matrix_shape(shapes, _EMBEDDING, _HINT)
    _, ffn_size = matrix_shape(shapes, "encoder.layers.0.mlp.dense_4h_to_h.weight", _HINT)
    return Dimensions(len(layers), hidden_size, ffn_size, vocab_size)


def _pair(
    linear: _Linear, sizes: dict[str, int], upstream_prefix: str, prefix: str
) -> Iterator[tuple[str, tuple[int, ...], tuple[Part, ...]]]:
    outer = sizes[linear.outer]
    rows = _share_rows(outer, len(linear.targets), interleaved=linear.interleaved)
    weight = (outer,) if linear.inner is None else (outer, sizes[linear.inner])
    for kind, shape in (("weight", weight), ("bias", (outer,))):
        parts = zip(linear.targets, rows, strict=True)
        named = tuple(Part(f"{prefix}{target}.{kind}", share) for target, share in parts)
        yield f"{upstream_prefix}{linear.upstream}.{kind}", shape, named


def _share_rows(rows: int, shares: int, *, interleaved: bool) -> list[range]:
    if interleaved:
        return [range(share, rows, shares) for share in range(shares)]
    block = rows // shares
    return [range(share * block, (share + 1) * block) for share in range(shares)]
