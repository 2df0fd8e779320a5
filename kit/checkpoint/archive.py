"""Where the members of a torch file lie: its zip directory, read without unpacking anything.

Format: torch.save's zip (torch 1.6 and later): ``<name>/data.pkl``, ``<name>/data/<key>`` for each
storage, ``<name>/byteorder``; every member stored, not compressed, so that its bytes can be read in
place. Every member has a CRC-32; all are zero where
``torch.serialization.set_crc32_options(False)`` was called.
"""

import hashlib
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kit.checkpoint.source import AGAIN, Checksum, require_checksum, unreadable
from kit.errors import IntegrityError, printable
from kit.records import open_plain_fd

MAX_DIRECTORY_BYTES = 8 * 1024**2
"""Far above what any checkpoint needs (13B: 0.05 MB); bounds memory."""

# Read at once for a checksum: large enough for a disk, small beside everything else held.
_PIECE_BYTES = 1024**2
_LOCAL_HEADER = struct.Struct("<4s2xHH4xIIIHH")
"""Signature, flags, method, CRC-32, both sizes, lengths of the name and of the extra field."""

_ENCRYPTED, _SIZES_BEHIND, _UTF8 = 0x1, 0x8, 0x800
_SIZE_IN_EXTRA = 0xFFFFFFFF
_OLD_TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_LFS_POINTER = b"version https://git-lfs"
_SAVE_AGAIN = (
    "save it again on a machine where you trust it: torch.save(torch.load(old, map_location='cpu'),"
    " new)"
)


@dataclass(frozen=True)
class Span:
    """Contiguous bytes of a file: absolute offset and length."""

    offset: int
    nbytes: int


class Archive:
    """An open torch file's directory. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = _BoundedFile(path, opener=open_plain_fd)
        except OSError as error:
            raise unreadable(path, error) from error
        try:
            self._members, self._spans = _read_directory(path, self._file)
            self._prefix = _prefix(path, list(self._members))
            self._has_checksums = any(member.CRC for member in self._members.values())
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._members

    def stat(self) -> os.stat_result:
        """The open file's size and times."""
        return os.fstat(self._file.fileno())

    def fingerprint(self) -> str:
        """sha256 over the directory, which holds every member's name, size and CRC-32."""
        members = sorted((m.filename, m.file_size, m.CRC) for m in self._members.values())
        return hashlib.sha256(repr(members).encode()).hexdigest()

    def read(self, name: str, limit_bytes: int) -> bytes:
        """A small member's bytes.

        Raises:
            IntegrityError: it is longer than ``limit_bytes``, or not what its CRC-32 says.
        """
        span = self.span(name)
        if span.nbytes > limit_bytes:
            raise IntegrityError(
                f"{self.path}: {name} has {span.nbytes} bytes, at most {limit_bytes} expected",
                hint="this is not a checkpoint as torch.save writes it",
            )
        content = os.pread(self._file.fileno(), span.nbytes, span.offset)
        if self._has_checksums:
            expected = self._members[self._prefix + name].CRC
            require_checksum(self.path, name, zlib.crc32(content), expected)
        return content

    def checksums(self) -> tuple[Checksum, ...]:
        """The CRC-32 of every plain member, in the order of the file."""
        if not self._has_checksums:
            return ()
        plain = [member for member in self._members.values() if _is_plain(member)]
        found = [(member, self._spans[member.filename]) for member in plain]
        return tuple(
            Checksum(member.filename, span.offset, span.nbytes, member.CRC)
            for member, span in sorted(found, key=lambda each: each[1].offset)
        )

    def span(self, name: str) -> Span:
        """Where a member's bytes lie in the file.

        Raises:
            IntegrityError: there is no such member, or it is compressed or encrypted.
        """
        info = self._members.get(self._prefix + name)
        if info is None:
            raise IntegrityError(f"{self.path}: {name} is missing from the archive", hint=AGAIN)
        if not _is_plain(info):
            raise IntegrityError(
                f"{self.path}: {name} is compressed or encrypted; torch.save writes plain members",
                hint="the file was packed again by another tool: get the original, or "
                + _SAVE_AGAIN,
            )
        return self._spans[info.filename]

    def holds_alike(self, first: Span, second: Span) -> bool:
        """Whether two ranges of the file hold the same bytes."""
        if first.nbytes != second.nbytes:
            return False
        fd, last = self._file.fileno(), first.nbytes
        return all(
            os.pread(fd, min(_PIECE_BYTES, last - at), first.offset + at)
            == os.pread(fd, min(_PIECE_BYTES, last - at), second.offset + at)
            for at in range(0, last, _PIECE_BYTES)
        )


class _BoundedFile(io.FileIO):
    """Refuses reads so large that a hostile directory size would fill the memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = os.fstat(self.fileno()).st_size - self.tell() if size in (None, -1) else size
        if wanted is not None and wanted > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile("directory too large")
        return super().read(-1 if size is None else size) or b""


def _is_plain(member: zipfile.ZipInfo) -> bool:
    return member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & _ENCRYPTED


def _read_directory(
    path: Path, file: _BoundedFile
) -> tuple[dict[str, zipfile.ZipInfo], dict[str, Span]]:
    """The members by name, and where their contents lie."""
    try:
        with zipfile.ZipFile(file) as directory:
            members, end = directory.infolist(), directory.start_dir
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OSError) as error:
        raise _not_a_zip(path, file) from error
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        raise IntegrityError(f"{path}: two members of the archive have one name", hint=AGAIN)
    try:
        spans = _spans(file.fileno(), members, end)
    except ValueError as error:
        raise IntegrityError(f"{path}: {error}", hint=AGAIN) from error
    return dict(zip(names, members, strict=True)), spans


def _spans(fd: int, members: Iterable[zipfile.ZipInfo], end: int) -> dict[str, Span]:
    """Where members lie that are to end before ``end``, the directory's start.

    Each one has a local header, which must say the same as the directory.

    Raises:
        ValueError: it says something else, or is not where it should be, or members overlap.
    """
    spans, position = {}, 0
    for member in sorted(members, key=lambda each: each.header_offset):
        if member.header_offset < position:
            raise ValueError(f"{_shown(member)} does not lie where it should: members overlap")
        if not position and member.header_offset:
            raise ValueError(f"{_shown(member)} does not lie where it should: bytes precede it")
        start = member.header_offset + _local_header_bytes(fd, member)
        position = start + member.compress_size
        if position > end:
            raise ValueError(f"{_shown(member)} does not lie where it should")
        spans[member.filename] = Span(start, member.compress_size)
    return spans


def _local_header_bytes(fd: int, member: zipfile.ZipInfo) -> int:
    """How long the header before a member's content is. Raises ValueError if it is not its own."""
    name = member.orig_filename.encode("utf-8" if member.flag_bits & _UTF8 else "cp437")
    header = os.pread(fd, _LOCAL_HEADER.size + len(name), member.header_offset)
    if len(header) < _LOCAL_HEADER.size + len(name) or header[:4] != b"PK\x03\x04":
        raise ValueError(f"{_shown(member)} does not lie where it should")
    _, flags, method, crc32, packed, size, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(
        header[: _LOCAL_HEADER.size]
    )
    told = ((crc32, member.CRC), (packed, member.compress_size), (size, member.file_size))
    later = (0, _SIZE_IN_EXTRA) if flags & _SIZES_BEHIND else (_SIZE_IN_EXTRA,)
    if (
        (flags, method, name_bytes) != (member.flag_bits, member.compress_type, len(name))
        or header[_LOCAL_HEADER.size :] != name
        or not all(local == known or local in later for local, known in told)
    ):
        raise ValueError(f"{_shown(member)} has a header that contradicts the directory")
    length = _LOCAL_HEADER.size + name_bytes
    extra = os.pread(fd, extra_bytes, member.header_offset + length)
    if not _is_whole_extra(extra, extra_bytes):
        raise ValueError(f"{_shown(member)} has a header that is damaged")
    return int(length + extra_bytes)


def _shown(member: zipfile.ZipInfo) -> str:
    return printable(member.filename)


def _is_whole_extra(extra: bytes, nbytes: int) -> bool:
    """Whether an extra field is a row of blocks: two bytes of kind, two of length, content."""
    position = 0
    while position + 4 <= len(extra):
        position += 4 + int.from_bytes(extra[position + 2 : position + 4], "little")
    return position == len(extra) == nbytes


def _prefix(path: Path, names: list[str]) -> str:
    prefixes = [name.removesuffix("data.pkl") for name in names if name.endswith("data.pkl")]
    tops = [prefix for prefix in prefixes if prefix.count("/") == 1 and prefix.endswith("/")]
    if len(tops) != 1:
        raise IntegrityError(
            f"{path} is a zip file without a torch pickle (data.pkl)",
            hint="give the checkpoint file itself, mp_rank_00_model_states.pt",
        )
    return tops[0]


def _not_a_zip(path: Path, file: io.FileIO) -> IntegrityError:
    start = os.pread(file.fileno(), 64, 0)
    if not start:
        return IntegrityError(f"{path} is empty", hint=AGAIN)
    if start.startswith(b"PK\x03\x04"):
        return IntegrityError(f"{path} is cut off: its zip directory cannot be read", hint=AGAIN)
    if start.startswith(_OLD_TORCH_MAGIC):
        return IntegrityError(
            f"{path} is in torch's old format (before 1.6), not a zip file", hint=_SAVE_AGAIN
        )
    if start.startswith(_LFS_POINTER):
        return IntegrityError(
            f"{path} is a Git LFS pointer, not the checkpoint", hint="run: git lfs pull"
        )
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return IntegrityError(
            f"{path} is a web page, not the checkpoint",
            hint="the server sent a page instead of the file: get it again",
        )
    return IntegrityError(
        f"{path} is not a torch checkpoint",
        hint="give the checkpoint file itself, mp_rank_00_model_states.pt",
    )
