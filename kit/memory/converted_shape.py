"""The shape that a checkpoint will have once it is converted, whatever the precision."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from kit.checkpoint.encoding import OutputDType, Stored, choose_encoding, choose_group_size
from kit.checkpoint.layout import Dimensions, expected_tensors
from kit.checkpoint.shards import DEFAULT_MAX_SHARD_BYTES
from kit.memory.shape import ModelShape, StoredTensor, sizes

Precision = Literal["fp32", "bf16", "int8", "int4"]

DTYPES: dict[Precision, OutputDType] = {
    "fp32": "float32",
    "bf16": "bfloat16",
    "int8": "int8",
    "int4": "int4",
}


@dataclass(frozen=True)
class Architecture:
    """What a model is, apart from its numbers' precision; see ``ModelShape``."""

    dimensions: Dimensions
    max_context: int
    window: int | None
    heads: int

    @property
    def parameters(self) -> int:
        """Numbers of the weights, the tied head counted once."""
        return self.at("fp32").weights_bytes // 4

    def at(self, precision: Precision) -> ModelShape:
        """The shape of the directory that ``kit weights convert`` makes.

        Raises:
            UsageError: the widths cannot be cut into groups for int4.
        """
        dimensions = self.dimensions
        tensors = [
            StoredTensor(stored.name, stored.dtype, stored.nbytes)
            for stored in _stored(dimensions, DTYPES[precision])
        ]
        found = sizes([tensors])
        largest = min(found["weights_bytes"], DEFAULT_MAX_SHARD_BYTES)
        return ModelShape(
            layers=dimensions.layers,
            hidden=dimensions.hidden_size,
            intermediate=dimensions.ffn_size,
            vocabulary=dimensions.vocab_size,
            max_context=self.max_context,
            window=self.window,
            heads=self.heads,
            **found | {"largest_file_bytes": largest},
        )


def _stored(dimensions: Dimensions, dtype: OutputDType) -> Iterator[Stored]:
    widths = (dimensions.hidden_size, dimensions.ffn_size)
    group_size = choose_group_size(widths) if dtype == "int4" else None
    for _, shape, parts in expected_tensors(dimensions):
        for part in parts:
            part_shape = (len(part.rows), *shape[1:])
            encoding = choose_encoding(part.name, part_shape, dtype, group_size)
            yield from encoding.stored(part.name, part_shape)
