"""MindSpore's ``.ckpt`` files: the places of their parameters, read without MindSpore.

Format (``checkpoint.proto`` and ``train/serialization.py`` of MindSpore 1.x to 2.x): one protocol
buffer, ``Checkpoint{repeated Value value = 1}``, ``Value{string tag = 1; TensorProto tensor = 2}``,
``TensorProto{repeated int64 dims = 1; string tensor_type = 2; bytes tensor_content = 3}``. A
parameter of more than 512 MiB is cut into several values with its tag and full dims, in order and
not always between rows. Files saved with ``crc_check`` end in ``crc_num`` and ten bytes.
"""

import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kit.checkpoint.archive import Span
from kit.checkpoint.protobuf import LENGTH, Field, WireReader
from kit.checkpoint.source import AGAIN, SourceFile, open_source
from kit.checkpoint.tensors import Piece, Tensor, matrix
from kit.checkpoint.torchfile import ITEM_BYTES, DType
from kit.errors import IntegrityError, printable

MAX_FIELDS = 200_000
"""Far above what a checkpoint has (13B: 4 for each of 700 values); bounds time and memory."""

_MAX_NAME_BYTES = 512
_MAX_DIMS = 8
_CRC_MARK, _CRC_BYTES = b"crc_num", 17
_DTYPES: dict[tuple[str, int], DType] = {
    ("Float32", 4): "float32",
    ("Float16", 2): "float16",
    ("BFloat16", 2): "bfloat16",
    ("BFloat16", 4): "float32",  # as numpy without bfloat16 wrote it: widened
}


@dataclass(frozen=True)
class Parameter:
    """A parameter as the file describes it: where its content lies, in order."""

    tag: str
    kind: str
    dims: tuple[int, ...]
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class MindSporeFile(SourceFile):
    """One indexed file. Its fingerprint covers names, types, shapes and places, no contents."""

    parameters: dict[str, Parameter]

    def tensor(self, tag: str) -> Tensor:
        """A parameter as a tensor, named by its tag.

        The width of BFloat16 is told by the content's length.

        Raises:
            IntegrityError: its content is of another size than its dims say, or no float type.
        """
        parameter = self.parameters[tag]
        count = math.prod(parameter.dims)
        nbytes = sum(span.nbytes for span in parameter.spans)
        dtype = _DTYPES.get((parameter.kind, nbytes // max(count, 1)))
        if not count or dtype is None or nbytes != count * ITEM_BYTES[dtype]:
            raise IntegrityError(
                f"{self.path}: {printable(tag)} is {printable(parameter.kind)} "
                f"{list(parameter.dims)} in {nbytes} bytes",
                hint="Float32, Float16 or BFloat16 are read: get the file again if it is damaged",
            )
        return Tensor(tag, dtype, parameter.dims, tuple(self._pieces(parameter, dtype)))

    def _pieces(self, parameter: Parameter, dtype: DType) -> Iterator[Piece]:
        item_bytes = ITEM_BYTES[dtype]
        first = 0
        for span in parameter.spans:
            last, rest = divmod(span.nbytes, item_bytes)
            if rest:
                raise IntegrityError(
                    f"{self.path}: {printable(parameter.tag)} is cut inside a number", hint=AGAIN
                )
            for start, rows, columns in _rectangles(first, first + last, parameter.dims):
                offset = span.offset + (start - first) * item_bytes
                yield Piece(self.path, offset, rows, columns)
            first += last


def is_mindspore(path: Path) -> bool:
    """Whether the file starts as a MindSpore checkpoint does: a value that is not empty."""
    with open_source(path) as file:
        return file.read(1) == b"\n"


def index_mindspore(path: Path) -> MindSporeFile:
    """Index a file. Reads names, types and shapes only.

    Raises:
        EnvironmentNotReady: the file cannot be opened.
        IntegrityError: it is not an intact MindSpore checkpoint.
    """
    with open_source(path) as file:
        status = os.fstat(file.fileno())
        try:
            values = list(_values(file.fileno(), status.st_size))
        except ValueError as error:
            raise IntegrityError(
                f"{path} is not an intact MindSpore checkpoint: {error}", hint=AGAIN
            ) from error
    parameters: dict[str, Parameter] = {}
    for value in values:
        known = parameters.get(value.tag, Parameter(value.tag, value.kind, value.dims, ()))
        if (known.kind, known.dims) != (value.kind, value.dims):
            raise IntegrityError(
                f"{path}: two values of {printable(value.tag)} disagree", hint=AGAIN
            )
        spans = known.spans + value.spans
        parameters[value.tag] = Parameter(value.tag, value.kind, value.dims, spans)
    return MindSporeFile(
        path=path,
        size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        fingerprint=hashlib.sha256(repr(values).encode()).hexdigest(),
        parameters=parameters,
    )


def _values(fd: int, size_bytes: int) -> Iterator[Parameter]:
    stop = size_bytes - _CRC_BYTES
    if stop < 0 or not os.pread(fd, _CRC_BYTES, stop).startswith(_CRC_MARK):
        stop = size_bytes
    reader = WireReader(fd, MAX_FIELDS)
    for field in reader.fields(0, stop):
        if (field.number, field.wire_type) == (1, LENGTH):
            value = _value(reader, field)
            if value is not None:
                yield value


def _value(reader: WireReader, message: Field) -> Parameter | None:
    """None for what is no tensor: a ``MapTensor``, or text."""
    tag, tensor = "", None
    for field in reader.fields(message.start, message.stop):
        if field.number == 1:
            tag = reader.content(field, _MAX_NAME_BYTES).decode()
        elif (field.number, field.wire_type) == (2, LENGTH):
            tensor = field
    return _tensor(reader, tag, tensor) if tensor else None


def _tensor(reader: WireReader, tag: str, message: Field) -> Parameter:
    kind, dims, spans = "", [], []
    for field in reader.fields(message.start, message.stop):
        if field.number == 1:
            dims += reader.varints(field, _MAX_DIMS)
        elif field.number == 2:
            kind = reader.content(field, _MAX_NAME_BYTES).decode()
        elif (field.number, field.wire_type) == (3, LENGTH):
            spans = [Span(field.start, field.stop - field.start)]
    if len(dims) > _MAX_DIMS or max(dims, default=0) >= 2**63:
        raise ValueError("a shape expected")
    return Parameter(tag, kind, tuple(dims), tuple(spans))


def _rectangles(first: int, last: int, dims: tuple[int, ...]) -> Iterator[tuple[int, range, range]]:
    """Cut a run of elements into rectangles: rest of a row, whole rows, beginning of a row.

    Yields:
        The element where each starts, its rows and its columns.
    """
    width = matrix(dims)[1]
    while first < last:
        row, column = divmod(first, width)
        if column or last - first < width:
            stop = min(last, first + width - column)
            yield first, range(row, row + 1), range(column, column + stop - first)
        else:
            stop = last - last % width
            yield first, range(row, stop // width), range(width)
        first = stop
