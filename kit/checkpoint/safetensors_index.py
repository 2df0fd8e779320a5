"""Where the tensors of a converted directory lie: its safetensors headers, read and checked.

Format: https://github.com/huggingface/safetensors.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kit.checkpoint.shards import WRITTEN_BY
from kit.checkpoint.source import unreadable
from kit.checkpoint.torchfile import ITEM_BYTES, DType, TensorEntry
from kit.errors import EnvironmentNotReady, IntegrityError, UsageError, printable
from kit.records import MAX_BYTES, MAX_FILE_BYTES, open_plain, parse_object

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
        return WRITTEN_BY in _header(path)[0].get("__metadata__", {}).items()
    except (OSError, ValueError, AttributeError):
        return False


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """A file's header, and how many bytes it takes. Raises OSError or ValueError."""
    with open_plain(path) as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        return parse_object(file.read(min(header_bytes, MAX_BYTES + 1))), header_bytes


def _entries(path: Path) -> Iterator[TensorEntry]:
    try:
        header, header_bytes = _header(path)
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
