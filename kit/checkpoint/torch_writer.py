"""Writing files that ``torch.load`` opens (``weights_only=True`` and ``mmap=True`` included).

A torch file is a zip archive of stored members: ``data.pkl``, a pickle of nested dictionaries with
tensors at the leaves, and ``data/<key>`` with the bytes of each tensor. The pickle is written by
hand, so that no torch is needed; tensors are written in pieces, so that none is held in memory.
Source of the format: ``torch/serialization.py`` and ``torch/_utils.py``.
"""

import math
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self, TypeAlias

from kit.checkpoint.pages import PageRelease
from kit.checkpoint.torchfile import ITEM_BYTES, DType

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
