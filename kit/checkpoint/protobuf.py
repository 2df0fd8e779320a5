"""Walking the fields of a protocol-buffer file in place, without reading what is skipped.

Wire format: https://protobuf.dev/programming-guides/encoding — each field is a number and a wire
type, then a varint, four or eight bytes, or a length and that many bytes.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {FIXED64: 8, FIXED32: 4}
_MAX_VARINT_BYTES = 10
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
