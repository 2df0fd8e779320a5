"""The files of a model, of whatever format, as one set of tensors with a mapping."""

import re
from collections.abc import Mapping as Shaped
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kit.checkpoint.layout import (
    Dimensions,
    Mapping,
    Part,
    expected_tensors,
    map_tensors,
    matrix_shape,
    refuse,
)
from kit.checkpoint.mindspore import MindSporeFile, index_mindspore, is_mindspore
from kit.checkpoint.published import family_of, map_published
from kit.checkpoint.source import SourceFile
from kit.checkpoint.tensor_parallel import merge_ranks
from kit.checkpoint.torchfile import index_checkpoint, index_state_dict
from kit.errors import UsageError

_ROOT = "transformer."
_LAYERS = _ROOT + "transformer.layers."
_EMBEDDING = _ROOT + "embedding.word_embeddings.embedding_table"
_NAMES = {
    "model.norm": _ROOT + "transformer.layernorm",
    "input_layernorm": "layer_norm",
    "post_attention_layernorm": "final_layer_norm",
    **{f"self_attn.{letter}_proj": f"attention.{letter}_proj" for letter in "qkv"},
    "self_attn.o_proj": "attention.out_proj",
    "mlp.gate_proj": "mlp.fc0",
    "mlp.up_proj": "mlp.fc1",
    "mlp.down_proj": "mlp.fc2",
}
_OUR_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_THEIR_LAYER = re.compile(re.escape(_LAYERS) + r"(0|[1-9]\d{0,5})\.")
_NOT_WEIGHTS = re.compile(r"slice_sparse_mask|key_past|value_past")
_HINT = "give the base or chat checkpoint as MindFormers saves it, whole, not a distributed slice"


@dataclass(frozen=True)
class Model:
    """An indexed model: its files, dimensions, and what becomes of each tensor."""

    files: tuple[SourceFile, ...]
    dimensions: Dimensions
    mappings: tuple[Mapping, ...]
    family: Literal["spark", "baichuan2", "chatglm"] = "spark"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the converted tensors by name."""
        return {
            part.name: (len(part.rows), *mapping.source.shape[1:])
            for mapping in self.mappings
            for part in mapping.parts
        }


def read_model(paths: Sequence[Path]) -> Model:
    """Index upstream's file or its tensor-parallel shards in rank order, or a MindSpore file.

    Raises:
        EnvironmentNotReady: a file cannot be read.
        IntegrityError: a file is damaged or unsafe (``UnsafePickle``), the files are not of one
            checkpoint, or tensors are missing, unknown, or of shapes that disagree.
    """
    if len(paths) == 1 and is_mindspore(paths[0]):
        file = index_mindspore(paths[0])
        return Model((file,), *map_parameters(file))
    files = tuple(index_checkpoint(path) for path in paths)
    return Model(files, *map_tensors(merge_ranks(files)))


def read_published(paths: Sequence[Path], config: Shaped[str, Any]) -> Model:
    """Index the ``.bin`` shards of a family as its hub publishes them.

    Args:
        config: the published ``config.json``.

    Raises:
        EnvironmentNotReady: a file cannot be read.
        UsageError: it is of no family that the kit knows.
        IntegrityError: see :func:`read_model`.
    """
    files = tuple(index_state_dict(path) for path in paths)
    family = family_of(files)
    if family is None:
        raise UsageError(
            f"{paths[0].parent} holds a model of a family that the kit does not convert",
            hint="Baichuan2-13B and ChatGLM-6B are read as their hubs publish them",
        )
    return Model(files, *map_published(family, files, config), family.name)


def map_parameters(file: MindSporeFile) -> tuple[Dimensions, tuple[Mapping, ...]]:
    """Map a file's parameters to the model's tensors. Those of an optimizer are not looked at.

    Raises:
        IntegrityError: parameters are missing, unknown, damaged, or of shapes that disagree.
    """
    dimensions = _dimensions(file)
    expected = {
        _their_name(part.name): (part.name, (len(part.rows), *shape[1:]))
        for _, shape, parts in expected_tensors(dimensions)
        for part in parts
    }
    weights = {
        tag for tag in file.parameters if tag.startswith(_ROOT) and not _NOT_WEIGHTS.search(tag)
    }
    refuse(sorted(expected.keys() - weights), "the checkpoint lacks", _HINT)
    refuse(sorted(weights - expected.keys()), "the checkpoint has unknown parameters", _HINT)
    refuse(
        [
            f"{tag} {list(file.parameters[tag].dims)} instead of {list(shape)}"
            for tag, (_, shape) in expected.items()
            if file.parameters[tag].dims != shape
        ],
        "parameters disagree in shape",
        _HINT,
    )
    return dimensions, tuple(
        Mapping(file.tensor(tag), (Part(name, range(shape[0])),))
        for tag, (name, shape) in expected.items()
    )


def _dimensions(file: MindSporeFile) -> Dimensions:
    layers = {match[1] for tag in file.parameters if (match := _THEIR_LAYER.match(tag))}
    shapes = {tag: parameter.dims for tag, parameter in file.parameters.items()}
    vocab_size, hidden_size = matrix_shape(shapes, _EMBEDDING, _HINT)
    _, ffn_size = matrix_shape(shapes, f"{_LAYERS}0.mlp.fc2.weight", _HINT)
    return Dimensions(len(layers), hidden_size, ffn_size, vocab_size)


def _their_name(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return _EMBEDDING
    match = _OUR_LAYER.fullmatch(name)
    prefix, rest = (f"{_LAYERS}{match[1]}.", match[2]) if match else ("", name)
    stem, kind = rest.rsplit(".", 1)
    if stem.endswith("norm"):
        kind = {"weight": "gamma", "bias": "beta"}[kind]
    return f"{prefix}{_NAMES[stem]}.{kind}"
