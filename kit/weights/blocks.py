"""The journal of a file on its way: which of its blocks are finished.

Format: one line of JSON that says of what content, then one character per block, ``1`` if finished.
The characters are overwritten in place. That needs no room, so it works on a full disk; and a crash
can at most lose the newest of them, because each stands for itself.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from kit.files import write_durably
from kit.records import parse_object, read_plain

_MOST_BYTES = 16 << 20
"""A file of 256 TiB in blocks of 16 MiB, and more than any other."""


@dataclass(frozen=True)
class Identity:
    """What must agree for two transfers to be of the same content.

    Attributes:
        size_bytes: of the whole file.
        sha256: where it is known beforehand; it then decides alone, whichever server it is.
        validator: the server's strong ETag or Last-Modified; without both there is no telling.
    """

    size_bytes: int
    sha256: str | None = None
    validator: str | None = None

    def is_of(self, other: "Identity") -> bool:
        """Whether both are of the same content, for all that is known."""
        if self.size_bytes != other.size_bytes:
            return False
        if self.sha256 and other.sha256:
            return self.sha256 == other.sha256
        return self.validator is not None and self.validator == other.validator


@dataclass(frozen=True)
class Blocks:
    """What a journal says: finished blocks, counted from 0, of ``block_bytes`` each."""

    identity: Identity
    block_bytes: int
    done: frozenset[int] = frozenset()

    @property
    def count(self) -> int:
        """Blocks of the whole file; the last may be short."""
        return -(-self.identity.size_bytes // self.block_bytes)

    @property
    def done_bytes(self) -> int:
        """Bytes in finished blocks."""
        return sum(len(self.extent(block)) for block in self.done)

    def extent(self, block: int) -> range:
        """The bytes of a block."""
        start = block * self.block_bytes
        return range(start, min(start + self.block_bytes, self.identity.size_bytes))


def journal_path(target: Path) -> Path:
    """Where the journal of ``target`` lies."""
    return target.with_name(f".{target.name}.journal")


def start_journal(path: Path, blocks: Blocks) -> None:
    """Write a journal anew, durably."""
    write_durably(path, _head(blocks) + _flags(blocks.count, blocks.done))


def enter_blocks(path: Path, blocks: Blocks) -> None:
    """Bring the flags of a started journal up to date; they are on disk when this returns."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, _flags(blocks.count, blocks.done), len(_head(blocks)))
        os.fdatasync(fd)
    finally:
        os.close(fd)


def read_journal(path: Path) -> Blocks | None:
    """What the journal says; None where there is none, or a damaged one."""
    try:
        head, flags = read_plain(path, _MOST_BYTES).split(b"\n")
        content = parse_object(head)
        identity = Identity(**content["identity"])
        done = frozenset(block for block, flag in enumerate(flags) if flag == ord("1"))
        blocks = Blocks(identity, int(content["block_bytes"]), done)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return blocks if len(flags) == blocks.count else None


def _head(blocks: Blocks) -> bytes:
    content = {"block_bytes": blocks.block_bytes, "identity": asdict(blocks.identity)}
    return json.dumps(content).encode() + b"\n"


def _flags(count: int, done: frozenset[int]) -> bytes:
    return bytes(ord("1") if block in done else ord("0") for block in range(count))
