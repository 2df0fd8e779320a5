"""Copy a large file, or a range of one: resumable and checked, as a download is."""

import os
import time
from pathlib import Path

from kit.checkpoint.pages import PageRelease, read_into
from kit.checkpoint.source import open_source
from kit.errors import IntegrityError
from kit.files import exclusive
from kit.weights.blocks import Identity
from kit.weights.digest import FollowingDigest
from kit.weights.partial import BLOCK_BYTES, Partial
from kit.weights.transfer import (
    Arrived,
    Expected,
    Keep,
    Watch,
    keep_nothing,
    require_digest,
    require_size,
)

# What an interruption can cost, against a journal that is synced too often.
COMMIT_S = 1.0
_REMEDY = "get it again from where it came"


def copy_file(
    source: Path,
    target: Path,
    expected: Expected | None = None,
    *,
    extent: range | None = None,
    block_bytes: int = BLOCK_BYTES,
    watch: Watch | None = None,
    keep: Keep = keep_nothing,
) -> Arrived:
    """Copy ``source`` (or its bytes ``extent``) to ``target``, or go on with an earlier copy.

    The digest is computed from what was written, not from what was read. ``keep`` is called when
    the content is complete and checked, before it is named.

    Raises:
        EnvironmentNotReady: ``source`` cannot be read, the disk is full, or another process copies
            to ``target``. What has arrived is kept.
        IntegrityError: it is not the file that was expected, or it changed meanwhile.
    """
    asked, watching = expected or Expected(), watch or Watch()
    with open_source(source) as file, exclusive(target, "copying to"):
        state = os.fstat(file.fileno())
        bytes_wanted = range(state.st_size) if extent is None else extent
        require_size(target, len(bytes_wanted), asked, str(source), _REMEDY)
        validator = f"{source.name} {state.st_size} {state.st_mtime_ns} {bytes_wanted.start}"
        identity = Identity(len(bytes_wanted), asked.sha256, validator)
        with Partial(target, identity, block_bytes) as partial:
            found = _fill(file.fileno(), bytes_wanted.start, partial, watching)
            partial.commit()
            if source.stat().st_mtime_ns != state.st_mtime_ns:
                partial.discard()
                raise IntegrityError(
                    f"{source} was changed while it was copied", hint="run the same command again"
                )
            if asked.sha256 not in (None, found):
                partial.discard()
            require_digest(target, found, asked, str(source), _REMEDY)
            arrived = Arrived(len(bytes_wanted), found)
            keep(arrived)
            partial.publish()
    return arrived


def _fill(source: int, start: int, partial: Partial, watch: Watch) -> str:
    size_bytes = partial.blocks.identity.size_bytes
    buffer = memoryview(bytearray(partial.blocks.block_bytes))
    digest, release = FollowingDigest(partial.fd), PageRelease(source)
    committed = time.monotonic()
    for block in range(partial.blocks.count):
        extent = partial.blocks.extent(block)
        if block not in partial.blocks.done:
            part = buffer[: len(extent)]
            if read_into(source, part, start + extent.start) != len(extent):
                raise IntegrityError(
                    f"the source of {partial.target.name} became shorter while it was copied",
                    hint="run the same command again",
                )
            release.passed(start + extent.start, len(extent))
            partial.write(part, extent.start)
            partial.finished([block])
        digest.advance(extent.stop)
        if time.monotonic() - committed >= COMMIT_S:
            partial.commit(digest.offset)
            committed = time.monotonic()
        watch.progress(extent.stop, size_bytes)
    return digest.hexdigest()
