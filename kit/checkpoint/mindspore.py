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
from kit.checkpoint.layout import Piece, Tensor, matrix
from kit.checkpoint.source import AGAIN, SourceFile, open_source
from kit.checkpoint.torchfile import ITEM_BYTES, DType
from kit.errors import IntegrityError, printable

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {FIXED64: 8, FIXED32: 4}
# 64 bits, seven a byte (protocol buffers, encoding).
_MAX_VARINT_BYTES = 10
# Fields before a tensor's data are a few dozen bytes: one page has them all.
_WINDOW_BYTES = 4096


@dataclass(frozen=True)
class Field:
    """One field. ``value`` is a varint's; ``start`` and ``stop`` are where other contents lie."""

    number: int
    wire_type: int
    value: int
    start: int
    stop: int


class WireReader:
    """Reads fields of an open file.

    Args:
        fd: the file.
        max_fields: how many it may hold, so that a hostile file cannot take for ever.
    """

    def __init__(self, fd: int, max_fields: int) -> None:
        self._fd = fd
        self._fields_left = max_fields
        self._window = b""
        self._window_start = 0

    def fields(self, start: int, stop: int) -> Iterator[Field]:
        """The fields of the message that lies between two offsets. Raises ValueError."""
        position = start
        while position < stop:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise ValueError("too many fields")
            tag, position = self._varint(position, stop)
            number, wire_type, value = tag >> 3, tag & 7, 0
            content = position
            if wire_type == VARINT:
                value, position = self._varint(position, stop)
            elif wire_type == LENGTH:
                length, content = self._varint(position, stop)
                position = content + length
            elif wire_type in _FIXED_BYTES:
                position += _FIXED_BYTES[wire_type]
            else:
                raise ValueError(f"wire type {wire_type}")
            if number == 0 or position > stop:
                raise ValueError("a field does not fit its message")
            yield Field(number, wire_type, value, content, position)

    def content(self, field: Field, limit_bytes: int) -> bytes:
        """A short field's bytes. Raises ValueError if it is longer or no bytes."""
        if field.wire_type != LENGTH or field.stop - field.start > limit_bytes:
            raise ValueError("short bytes expected")
        return os.pread(self._fd, field.stop - field.start, field.start)

    def varints(self, field: Field, limit: int) -> list[int]:
        """The values of a repeated varint, one or packed. Raises ValueError if beyond ``limit``."""
        if field.wire_type == VARINT:
            return [field.value]
        if field.wire_type != LENGTH or field.stop - field.start > limit * _MAX_VARINT_BYTES:
            raise ValueError("a short list expected")
        values, position = [], field.start
        while position < field.stop:
            value, position = self._varint(position, field.stop)
            values.append(value)
        return values

    def _varint(self, position: int, stop: int) -> tuple[int, int]:
        value = 0
        for index in range(_MAX_VARINT_BYTES):
            if position >= stop:
                break
            byte = self._byte(position)
            position += 1
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                return value, position
        raise ValueError("a varint does not end")

    def _byte(self, position: int) -> int:
        index = position - self._window_start
        if not 0 <= index < len(self._window):
            self._window = os.pread(self._fd, _WINDOW_BYTES, position)
            self._window_start, index = position, 0
            if not self._window:
                raise ValueError("the file ends")
        return self._window[index]


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
