"""Where the members of a torch file lie: its zip directory, read without unpacking anything.

Format: torch.save's zip (torch 1.6 and later): ``<name>/data.pkl``, ``<name>/data/<key>`` for each
storage, ``<name>/byteorder``; every member stored, not compressed, so that its bytes can be read in
place.
"""

import hashlib
import io
import os
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

from kit.errors import EnvironmentNotReady, IntegrityError

MAX_DIRECTORY_BYTES = 8 * 1024**2
"""Far above what any checkpoint needs (13B: 0.05 MB); bounds memory."""

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of name and extra field
_OLD_TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_LFS_POINTER = b"version https://git-lfs"
_AGAIN = "the download is incomplete or damaged: get the file again"
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
            self._file = _BoundedFile(path)
        except OSError as error:
            raise EnvironmentNotReady(
                f"cannot read {path}: {error.strerror}", hint="check the path and its permissions"
            ) from error
        try:
            self._members = _read_directory(path, self._file)
            self._prefix = _prefix(path, list(self._members))
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
        """A small member's bytes; IntegrityError if it is longer than ``limit_bytes``."""
        span = self.span(name)
        if span.nbytes > limit_bytes:
            raise IntegrityError(
                f"{self.path}: {name} has {span.nbytes} bytes, at most {limit_bytes} expected",
                hint="this is not a checkpoint as torch.save writes it",
            )
        return os.pread(self._file.fileno(), span.nbytes, span.offset)

    def span(self, name: str) -> Span:
        """Where a member's bytes lie in the file.

        Raises:
            IntegrityError: there is no such member, it is compressed or encrypted, or it does not
                lie inside the file.
        """
        info = self._members.get(self._prefix + name)
        if info is None:
            raise IntegrityError(f"{self.path}: {name} is missing from the archive", hint=_AGAIN)
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise IntegrityError(
                f"{self.path}: {name} is compressed or encrypted; torch.save writes plain members",
                hint="the file was packed again by another tool: get the original, or "
                + _SAVE_AGAIN,
            )
        offset = self._data_offset(info.header_offset)
        if offset is None or offset + info.file_size > self.stat().st_size:
            raise IntegrityError(f"{self.path}: {name} does not lie where it should", hint=_AGAIN)
        return Span(offset, info.file_size)

    def _data_offset(self, header_offset: int) -> int | None:
        if not 0 <= header_offset < self.stat().st_size:
            return None
        header = os.pread(self._file.fileno(), _LOCAL_HEADER.size, header_offset)
        if len(header) < _LOCAL_HEADER.size:
            return None
        signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
        if signature != b"PK\x03\x04":
            return None
        return int(header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes)


class _BoundedFile(io.FileIO):
    """Refuses reads so large that a hostile directory size would fill the memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = os.fstat(self.fileno()).st_size - self.tell() if size in (None, -1) else size
        if wanted is not None and wanted > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile("directory too large")
        return super().read(-1 if size is None else size) or b""


def _read_directory(path: Path, file: _BoundedFile) -> dict[str, zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(file) as directory:
            members = directory.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OSError) as error:
        raise _not_a_zip(path, file) from error
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        raise IntegrityError(f"{path}: two members of the archive have one name", hint=_AGAIN)
    return dict(zip(names, members, strict=True))


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
        return IntegrityError(f"{path} is empty", hint=_AGAIN)
    if start.startswith(b"PK\x03\x04"):
        return IntegrityError(f"{path} is cut off: its zip directory cannot be read", hint=_AGAIN)
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
