"""A safetensors directory: where every tensor goes, planned before any byte, and read back checked.

Format: https://github.com/huggingface/safetensors — eight bytes of header length (little-endian),
a JSON header, then the tensors without gaps. The header is padded with spaces so that the tensors
start on a page, and can be mapped and read directly.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kit.checkpoint.encoding import (
    STORED_ITEM_BYTES,
    Encoding,
    OutputDType,
    Stored,
    choose_encoding,
    choose_group_size,
    is_quantised,
)
from kit.checkpoint.layout import Mapping, Tensor
from kit.checkpoint.source import unreadable
from kit.checkpoint.torchfile import ITEM_BYTES, DType, TensorEntry
from kit.errors import EnvironmentNotReady, IntegrityError, UsageError, printable
from kit.records import MAX_BYTES, MAX_FILE_BYTES, open_plain, parse_object

# As transformers' save_pretrained cut files for years; every tool expects that size.
DEFAULT_MAX_SHARD_BYTES = 5 * 10**9
WRITTEN_BY = ("written_by", "spark-kit")
"""In the metadata of every shard: a conversion's record belongs beside it."""

INDEX_NAME = "model.safetensors.index.json"

_PAGE_BYTES = 4096


@dataclass(frozen=True)
class Target:
    """A tensor of a shard file, contiguous at ``offset``."""

    stored: Stored
    offset: int


@dataclass(frozen=True)
class Output:
    """One of the model's tensors: ``rows`` of its source, and the tensors that store it."""

    name: str
    rows: range
    encoding: Encoding
    targets: tuple[Target, ...]


@dataclass(frozen=True)
class Copy:
    """One source tensor and what it is converted to; all of that lies in one shard."""

    source: Tensor
    outputs: tuple[Output, ...]


@dataclass(frozen=True)
class Shard:
    """One output file: its first bytes (length and header), total size, and the tensors in it."""

    name: str
    header: bytes
    size_bytes: int
    copies: tuple[Copy, ...]

    @property
    def targets(self) -> tuple[Target, ...]:
        """All tensors of the file, in no particular order."""
        return tuple(t for copy in self.copies for output in copy.outputs for t in output.targets)


def plan_shards(
    mappings: Sequence[Mapping],
    dtype: OutputDType,
    max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES,
    *,
    converted: bool = True,
) -> tuple[Shard, ...]:
    """Lay the tensors out in shards, in the order of their bytes in the source.

    One source tensor's parts stay together, so a shard is larger than ``max_shard_bytes`` only when
    a single source tensor is. Within a shard, types of larger elements come first, so that every
    tensor is aligned.

    Args:
        mappings: the model's tensors, and where they come from.
        dtype: of the output.
        max_shard_bytes: of one shard.
        converted: the shards say that a conversion's record belongs beside them.

    Raises:
        UsageError: the model's widths cannot be cut into groups for int4.
    """
    ordered = sorted(mappings, key=_place)
    group_size = _group_size(mappings) if dtype == "int4" else None
    copies = [_copy(mapping, dtype, group_size) for mapping in ordered]
    groups = list(_groups(copies, max_shard_bytes))
    return tuple(
        _shard(_file_name(number, len(groups)), group, converted)
        for number, group in enumerate(groups, start=1)
    )


def _place(mapping: Mapping) -> tuple[str, int, str]:
    """Where a sweep meets the tensor: shards of tensor parallelism are read side by side."""
    first = mapping.source.pieces[0]
    return str(first.path), first.offset, mapping.source.name


def index_json(shards: Sequence[Shard]) -> bytes:
    """The content of ``model.safetensors.index.json``: which file holds which tensor."""
    tensors = [(target.stored, shard.name) for shard in shards for target in shard.targets]
    index = {
        "metadata": {"total_size": sum(stored.nbytes for stored, _ in tensors)},
        "weight_map": {stored.name: file for stored, file in tensors},
    }
    return (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()


def _group_size(mappings: Sequence[Mapping]) -> int:
    quantised = [m for m in mappings if any(is_quantised(part.name) for part in m.parts)]
    return choose_group_size(mapping.source.shape[1] for mapping in quantised)


def _copy(mapping: Mapping, dtype: OutputDType, group_size: int | None) -> Copy:
    """What becomes of a source tensor; the places are not known yet."""
    outputs = []
    for part in mapping.parts:
        shape = (len(part.rows), *mapping.source.shape[1:])
        encoding = choose_encoding(part.name, shape, dtype, group_size)
        targets = tuple(Target(stored, 0) for stored in encoding.stored(part.name, shape))
        outputs.append(Output(part.name, part.rows, encoding, targets))
    return Copy(mapping.source, tuple(outputs))


def _groups(copies: Sequence[Copy], max_bytes: int) -> Iterator[list[Copy]]:
    group: list[Copy] = []
    size = 0
    for copy in copies:
        nbytes = sum(target.stored.nbytes for o in copy.outputs for target in o.targets)
        if group and size + nbytes > max_bytes:
            yield group
            group, size = [], 0
        group.append(copy)
        size += nbytes
    yield group


def _file_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"


def _shard(name: str, copies: Sequence[Copy], converted: bool) -> Shard:
    all_stored = [target.stored for target in Shard(name, b"", 0, tuple(copies)).targets]
    all_stored.sort(key=lambda stored: -STORED_ITEM_BYTES[stored.dtype])
    offsets: dict[str, int] = {}
    end = 0
    for stored in all_stored:
        offsets[stored.name] = end
        end += stored.nbytes
    written_by = dict([WRITTEN_BY]) if converted else {}
    header = _header(all_stored, offsets, {"format": "pt", **written_by})

    def placed(output: Output) -> Output:
        found = (replace(t, offset=len(header) + offsets[t.stored.name]) for t in output.targets)
        return replace(output, targets=tuple(found))

    placed_copies = (replace(copy, outputs=tuple(map(placed, copy.outputs))) for copy in copies)
    return Shard(name, header, len(header) + end, tuple(placed_copies))


def _header(
    all_stored: Sequence[Stored], offsets: dict[str, int], metadata: dict[str, str]
) -> bytes:
    entries: dict[str, object] = {"__metadata__": metadata}
    for stored in all_stored:
        begin = offsets[stored.name]
        entries[stored.name] = {
            "dtype": stored.dtype,
            "shape": stored.shape,
            "data_offsets": (begin, begin + stored.nbytes),
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    padded = text.ljust(-(-(8 + len(text)) // _PAGE_BYTES) * _PAGE_BYTES - 8)
    return len(padded).to_bytes(8, "little") + padded


_DTYPES: dict[str, DType] = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_MAX_DIMS = 8
_UNDER_16_BIT = ("I8", "U8", "I32", "I64", "F8_E4M3", "F8_E5M2")


def index_directory(directory: Path) -> dict[str, TensorEntry]:
    """The tensors of all safetensors files in a directory, by name.

    Raises:
        EnvironmentNotReady: there are no such files.
        UsageError: the directory is in less than 16 bit.
        IntegrityError: a file is damaged, or two files hold one name.
    """
    paths = sorted(directory.glob("*.safetensors"))
    if not paths:
        raise EnvironmentNotReady(
            f"{directory} holds no safetensors files",
            hint="give a directory that `kit weights convert` made",
        )
    entries: dict[str, TensorEntry] = {}
    for path in paths:
        for entry in _entries(path):
            if entry.name in entries:
                raise IntegrityError(
                    f"{printable(entry.name)} is in {entries[entry.name].path.name} "
                    f"and in {path.name}",
                    hint="the directory holds files of two conversions: convert into an empty one",
                )
            entries[entry.name] = entry
    return entries


def was_converted(path: Path) -> bool:
    """Whether a safetensors file says that the kit wrote it; False for one that cannot be read."""
    try:
        return WRITTEN_BY in _read_header(path)[0].get("__metadata__", {}).items()
    except (OSError, ValueError, AttributeError):
        return False


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """A file's header, and how many bytes it takes. Raises OSError or ValueError."""
    with open_plain(path) as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        return parse_object(file.read(min(header_bytes, MAX_BYTES + 1))), header_bytes


def _entries(path: Path) -> Iterator[TensorEntry]:
    try:
        header, header_bytes = _read_header(path)
        room = path.stat().st_size - 8 - header_bytes
        for name, facts in header.items():
            if name != "__metadata__":
                yield _entry(path, name, facts, 8 + header_bytes, room)
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"{path} is not an intact safetensors file: {printable(str(error))}",
            hint="convert the checkpoint again, or copy the file again from where it is intact",
        ) from error


def _entry(path: Path, name: str, facts: dict[str, Any], start: int, room: int) -> TensorEntry:
    kind, shape, (first, last) = facts["dtype"], tuple(facts["shape"]), facts["data_offsets"]
    if kind in _UNDER_16_BIT:
        raise UsageError(
            f"{path.parent} is in less than 16 bit: {printable(name)} is of type {kind}",
            hint="take a conversion with --precision bf16 or fp32",
        )
    if kind not in _DTYPES:
        raise ValueError(f"{name} is of type {kind}, which the kit never writes")
    dtype = _DTYPES[kind]
    sound = all(type(n) is int and 0 <= n <= MAX_FILE_BYTES for n in (*shape, first, last))
    if not sound or len(shape) > _MAX_DIMS:
        raise ValueError(f"{name} has no sound shape and place")
    if last - first != math.prod(shape) * ITEM_BYTES[dtype] or last > room:
        raise ValueError(f"{name} does not lie where it should")
    return TensorEntry(name, dtype, shape, path, start + first, last - first)
