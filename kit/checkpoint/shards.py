"""Where every converted tensor goes: the plan of a safetensors directory, made before any byte.

Format: https://github.com/huggingface/safetensors — eight bytes of header length (little-endian),
a JSON header, then the tensors without gaps. The header is padded with spaces so that the tensors
start on a page, and can be mapped and read directly.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from kit.checkpoint.layout import Mapping
from kit.checkpoint.tensors import Tensor
from kit.checkpoint.torchfile import ITEM_BYTES

OutputDType = Literal["bfloat16", "float32"]
DEFAULT_MAX_SHARD_BYTES = 5 * 10**9
INDEX_NAME = "model.safetensors.index.json"

_PAGE_BYTES = 4096
_SAFETENSORS_NAME: dict[OutputDType, str] = {"bfloat16": "BF16", "float32": "F32"}


@dataclass(frozen=True)
class Target:
    """One converted tensor: ``rows`` of its source, contiguous at ``offset`` of its shard file."""

    name: str
    rows: range
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Copy:
    """One source tensor and the tensors it is converted to; all of them lie in one shard."""

    source: Tensor
    targets: tuple[Target, ...]


@dataclass(frozen=True)
class Shard:
    """One output file: its first bytes (length and header), total size, and the tensors in it."""

    name: str
    header: bytes
    size_bytes: int
    copies: tuple[Copy, ...]


def plan_shards(
    mappings: Sequence[Mapping], dtype: OutputDType, max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES
) -> tuple[Shard, ...]:
    """Lay the tensors out in shards, in the order of their bytes in the source.

    One source tensor's parts stay together, so a shard is larger than ``max_shard_bytes`` only when
    a single source tensor is.
    """
    ordered = sorted(mappings, key=lambda m: (m.source.pieces[0].offset, m.source.name))
    groups = list(_groups(ordered, ITEM_BYTES[dtype], max_shard_bytes))
    return tuple(
        _shard(_file_name(number, len(groups)), group, dtype)
        for number, group in enumerate(groups, start=1)
    )


def index_json(shards: Sequence[Shard]) -> bytes:
    """The content of ``model.safetensors.index.json``: which file holds which tensor."""
    targets = [(t, shard.name) for shard in shards for copy in shard.copies for t in copy.targets]
    index = {
        "metadata": {"total_size": sum(target.nbytes for target, _ in targets)},
        "weight_map": {target.name: file for target, file in targets},
    }
    return (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()


def _groups(
    mappings: Sequence[Mapping], item_bytes: int, max_bytes: int
) -> Iterator[list[Mapping]]:
    group: list[Mapping] = []
    size = 0
    for mapping in mappings:
        nbytes = math.prod(mapping.source.shape) * item_bytes
        if group and size + nbytes > max_bytes:
            yield group
            group, size = [], 0
        group.append(mapping)
        size += nbytes
    yield group


def _file_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"


def _shard(name: str, mappings: Sequence[Mapping], dtype: OutputDType) -> Shard:
    relative: list[Copy] = []
    end = 0
    for mapping in mappings:
        targets = []
        for part in mapping.parts:
            shape = (len(part.rows), *mapping.source.shape[1:])
            nbytes = math.prod(shape) * ITEM_BYTES[dtype]
            targets.append(Target(part.name, part.rows, shape, end, nbytes))
            end += nbytes
        relative.append(Copy(mapping.source, tuple(targets)))
    header = _header([target for copy in relative for target in copy.targets], dtype)
    copies = tuple(
        Copy(copy.source, tuple(_shifted(target, len(header)) for target in copy.targets))
        for copy in relative
    )
    return Shard(name, header, len(header) + end, copies)


def _shifted(target: Target, by: int) -> Target:
    return Target(target.name, target.rows, target.shape, target.offset + by, target.nbytes)


def _header(targets: Sequence[Target], dtype: OutputDType) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for target in targets:
        entries[target.name] = {
            "dtype": _SAFETENSORS_NAME[dtype],
            "shape": target.shape,
            "data_offsets": (target.offset, target.offset + target.nbytes),
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    padded = text.ljust(-(-(8 + len(text)) // _PAGE_BYTES) * _PAGE_BYTES - 8)
    return len(padded).to_bytes(8, "little") + padded
