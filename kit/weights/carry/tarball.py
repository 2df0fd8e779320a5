"""A tar file that is written piece by piece and goes on after any interruption.

Its bytes follow from the files alone (no times, owners or modes), so it is known where each one
goes. ``.NAME.journal`` keeps how far the file is written and the sha256 of the members in it.
"""

import hashlib
import json
import os
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kit.checkpoint.pages import PageRelease, read_into, write_at
from kit.errors import IntegrityError
from kit.files import exclusive, full_disk_explained, sync_directory, write_durably
from kit.records import read_object
from kit.units import MIB
from kit.weights.fetch.partial import KEPT, journal_path, partial_path
from kit.weights.fetch.transfer import Watch

_CHUNK_BYTES = 4 * MIB
# What an interruption can cost, against a journal that is synced too often.
_COMMIT_S = 1.0


@dataclass(frozen=True)
class Member:
    """A file to go into a tar, and its sha256 where it is known."""

    name: str
    path: Path
    size_bytes: int
    sha256: str | None


def write_tar(
    target: Path,
    members: Sequence[Member],
    last: Callable[[Mapping[str, str]], Mapping[str, bytes]],
    watch: Watch,
) -> None:
    """Write ``target``, or go on with an earlier, interrupted call.

    Args:
        last: given the sha256 of every member, returns the small files to end with.

    Raises:
        EnvironmentNotReady: the disk is full; what is written is kept.
        IntegrityError: a file is not what was expected.
    """
    total = sum(member.size_bytes for member in members)
    with exclusive(target, "writing"), full_disk_explained(target.parent, KEPT):
        with _Tar(target, members) as tar:
            done = 0
            for member in members:
                tar.add(member, watch.part(done, total))
                done += member.size_bytes
            for name, content in last(tar.digests).items():
                tar.add_bytes(name, content)
            tar.finish()
        tar.path.rename(target)
        journal_path(target).unlink()
        sync_directory(target.parent)


class _Tar:
    def __init__(self, target: Path, members: Sequence[Member]) -> None:
        self.path = partial_path(target)
        self.digests: dict[str, str] = {}
        self._journal = journal_path(target)
        states = [(m.name, m.size_bytes, m.path.stat().st_mtime_ns) for m in members]
        self._key = hashlib.sha256(repr(states).encode()).hexdigest()
        self._written = self._read_journal()
        self._offset = 0
        self._committed = time.monotonic()
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.ftruncate(self._fd, self._written)

    def __enter__(self) -> "_Tar":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def add(self, member: Member, watch: Watch) -> None:
        """Append a file; what an earlier call has written of it is only hashed again."""
        header = _header(member.name, member.size_bytes)
        if member.name in self.digests:
            self._offset += len(header) + _padded(member.size_bytes)
            return
        self._put(header)
        digest, buffer = hashlib.sha256(), memoryview(bytearray(_CHUNK_BYTES))
        with member.path.open("rb", buffering=0) as source:
            release = PageRelease(source.fileno())
            for start in range(0, member.size_bytes, _CHUNK_BYTES):
                part = buffer[: min(_CHUNK_BYTES, member.size_bytes - start)]
                if read_into(source.fileno(), part, start) != len(part):
                    raise _changed(member, "became shorter")
                digest.update(part)
                self._put(part)
                if time.monotonic() - self._committed >= _COMMIT_S:
                    self._commit()
                release.passed(start, len(part))
                watch.progress(start + len(part), member.size_bytes)
        if member.sha256 not in (None, digest.hexdigest()):
            raise _changed(member, f"has sha256 {digest.hexdigest()}, {member.sha256} expected")
        self._put(bytes(_padded(member.size_bytes) - member.size_bytes))
        self.digests[member.name] = digest.hexdigest()
        self._commit()

    def add_bytes(self, name: str, content: bytes) -> None:
        """Append a small file."""
        padding = bytes(_padded(len(content)) - len(content))
        self._put(_header(name, len(content)) + content + padding)

    def finish(self) -> None:
        """End the archive."""
        self._put(bytes(2 * tarfile.BLOCKSIZE))
        self._put(bytes(-self._offset % tarfile.RECORDSIZE))
        os.fsync(self._fd)

    def _put(self, data: bytes | memoryview) -> None:
        """Write at the end, leaving out what has been written before."""
        known = max(0, self._written - self._offset)
        if known < len(data):
            write_at(self._fd, memoryview(data)[known:], self._offset + known)
        self._offset += len(data)

    def _commit(self) -> None:
        if self._offset > self._written:
            os.fdatasync(self._fd)
            content = {"key": self._key, "written": self._offset, "digests": self.digests}
            write_durably(self._journal, json.dumps(content).encode())
            self._written = self._offset
        self._committed = time.monotonic()

    def _read_journal(self) -> int:
        try:
            content = read_object(self._journal)
            if content["key"] == self._key and self.path.stat().st_size >= content["written"]:
                self.digests = dict(content["digests"])
                return int(content["written"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return 0


def _header(name: str, size_bytes: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size_bytes, 0o644
    return info.tobuf(tarfile.GNU_FORMAT)


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _changed(member: Member, how: str) -> IntegrityError:
    return IntegrityError(
        f"{member.path} {how}",
        hint="it was changed since it was checked: kit weights verify, then fetch it again",
    )
