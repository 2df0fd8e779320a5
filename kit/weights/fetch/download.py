"""Download one large file: parallel ranges, resumed after anything, checked before it is named.

Several connections fill the file in blocks, which a journal records; the digest follows them. A
server that ignores ranges is read in one stream. Whatever breaks off is tried again with growing
pauses, and when that does not help the next run of the same command goes on.
"""

import asyncio
import hashlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.errors import EnvironmentNotReady, IntegrityError
from kit.files import exclusive, full_disk_explained, sync_directory
from kit.units import MIB
from kit.weights.digest import FollowingDigest
from kit.weights.fetch.ask import START_BYTES, is_page, is_pointer
from kit.weights.fetch.http import (
    DataClient,
    InterruptedTransferError,
    Location,
    RefusedError,
    Reply,
    Validators,
)
from kit.weights.fetch.partial import Blocks, Identity, Partial, journal_path, partial_path
from kit.weights.fetch.remote import Remote, Tuning, pieces
from kit.weights.fetch.transfer import (
    Arrived,
    Expected,
    Keep,
    Watch,
    keep_nothing,
    require_digest,
    require_size,
)

# Between two words on how the check of what is there goes on.
_HASH_STEP_BYTES = 256 * MIB


class ChangedError(Exception):
    """The server now has another version of the file."""


class RangesIgnoredError(Exception):
    """The server answered a range with the whole file."""


def missing_spans(blocks: Blocks, most_blocks: int) -> Iterator[range]:
    """Runs of unfinished blocks in order, each of at most ``most_blocks``."""
    start: int | None = None
    for block in range(blocks.count + 1):
        wanted = block < blocks.count and block not in blocks.done
        if start is not None and (not wanted or block - start == most_blocks):
            yield range(start, block)
            start = None
        if wanted and start is None:
            start = block


async def download_ranges(remote: Remote, partial: Partial, validators: Validators) -> str:
    """Fill ``partial``; returns the sha256 of the whole file.

    Raises:
        ChangedError: the file at the server is another one now.
        RangesIgnoredError: it has to be read in one stream.
        EnvironmentNotReady: the server gives no more, or the disk is full; what arrived is kept.
    """
    with ThreadPoolExecutor(remote.tuning.connections + 1) as threads:
        return await _Ranges(remote, partial, validators, threads).run()


class _Ranges:
    def __init__(
        self, remote: Remote, partial: Partial, validators: Validators, threads: ThreadPoolExecutor
    ) -> None:
        self._remote = remote
        self._partial = partial
        self._validators = validators
        self._by_validators = partial.blocks.identity.sha256 is None
        self._threads = threads
        self._spans = deque(missing_spans(partial.blocks, remote.tuning.span_blocks))
        self._size_bytes = partial.blocks.identity.size_bytes
        self._count = partial.blocks.done_bytes
        self._news = asyncio.Event()

    async def run(self) -> str:
        self._remote.watch.progress(self._count, self._size_bytes)
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(self._remote.tuning.connections, len(self._spans))):
                    tasks.create_task(self._work())
                digest = tasks.create_task(self._follow())
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        return digest.result()

    async def _work(self) -> None:
        while self._spans:
            await self._read(self._spans.popleft())

    async def _read(self, span: range) -> None:
        partial = self._partial
        position = partial.blocks.extent(span[0]).start
        stop = partial.blocks.extent(span[-1]).stop
        patience = self._remote.patience(partial.target.name)
        while position < stop:
            try:
                async with self._remote.open(position, stop, self._validators) as reply:
                    self._require_same(reply)
                    async for piece in pieces(reply.chunks, stop - position):
                        await self._in_thread(partial.write, piece, position)
                        position += len(piece)
                        self._arrived(span, position, len(piece))
                        patience.progressed()
                if position < stop:
                    raise InterruptedTransferError("the server sent less than it announced")
            except (InterruptedTransferError, RefusedError) as error:
                await patience.endure(error)

    def _require_same(self, reply: Reply) -> None:
        if reply.html:
            raise InterruptedTransferError("a web page came instead of data")
        if reply.total_bytes != self._size_bytes:
            raise ChangedError
        # With a known sha256 the content decides: servers behind one name may differ in ETags.
        if self._by_validators and reply.validators.strong != self._validators.strong:
            raise ChangedError
        if not reply.ranged:
            raise RangesIgnoredError

    def _arrived(self, span: range, position: int, nbytes: int) -> None:
        self._count += nbytes
        self._remote.watch.progress(self._count, self._size_bytes)
        blocks = self._partial.blocks
        new = [b for b in span if b not in blocks.done and blocks.extent(b).stop <= position]
        if new:
            self._partial.finished(new)
            self._news.set()

    async def _follow(self) -> str:
        """Hash behind the finished prefix, and enter finished blocks into the journal."""
        partial, commit_s = self._partial, self._remote.tuning.commit_s
        digest = FollowingDigest(partial.fd)
        committed = time.monotonic()
        while digest.offset < self._size_bytes:
            until = min(partial.frontier_bytes, digest.offset + _HASH_STEP_BYTES)
            if until > digest.offset:
                await self._in_thread(digest.advance, until)
            else:
                await self._wait(commit_s)
            if time.monotonic() - committed >= commit_s:
                await self._in_thread(partial.commit, digest.offset)
                committed = time.monotonic()
        return digest.hexdigest()

    async def _wait(self, most_s: float) -> None:
        try:
            await asyncio.wait_for(self._news.wait(), most_s)
        except TimeoutError:
            return
        self._news.clear()

    async def _in_thread(self, function: Callable[..., None], *arguments: Any) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, function, *arguments)


_VERSIONS = 4
"""How often a file may change at the server while it is downloaded."""


@dataclass(frozen=True)
class _Head:
    ranged: bool
    total_bytes: int | None
    validators: Validators


@dataclass(frozen=True)
class _Job:
    """What is to arrive where."""

    target: Path
    expected: Expected
    keep: Keep

    def accept(self, arrived: Arrived, origin: str, discard: Callable[[], None]) -> None:
        """Refuse wrong content and remove the data, with which no later try could succeed."""
        try:
            require_size(self.target, arrived.size_bytes, self.expected, origin)
            require_digest(self.target, arrived.sha256, self.expected, origin)
        except IntegrityError:
            discard()
            raise
        self.keep(arrived)


def download(
    locate: Callable[[], Location],
    target: Path,
    expected: Expected | None = None,
    *,
    tuning: Tuning | None = None,
    watch: Watch | None = None,
    keep: Keep = keep_nothing,
) -> Arrived:
    """Download into ``target``, or go on where an earlier call was interrupted.

    Args:
        locate: says where the file is; asked again when that URL has expired.
        target: replaced when the new content is complete and checked.
        expected: size and sha256 to check it against, as far as they are known.
        keep: called when the content is complete and checked, before it is named.

    Raises:
        EnvironmentNotReady: no access, no network, no room, or another download of ``target`` is
            running. What has arrived is kept.
        IntegrityError: it is not the file that was expected, or it keeps changing.
    """
    job = _Job(target, expected or Expected(), keep)
    with exclusive(target, "downloading"):
        return asyncio.run(_download(locate, job, tuning or Tuning(), watch or Watch()))


async def _download(
    locate: Callable[[], Location], job: _Job, tuning: Tuning, watch: Watch
) -> Arrived:
    async with DataClient(tuning.connections, tuning.stall_s) as client:
        remote = Remote(client, locate, tuning, watch)
        for _ in range(_VERSIONS):
            try:
                return await _version(remote, job)
            except ChangedError:
                watch.notice(f"{job.target.name} has changed at {remote.host}: starting again")
        raise IntegrityError(
            f"{job.target.name} keeps changing at {remote.host}",
            hint="somebody is replacing it there; run the same command later",
        )


async def _version(remote: Remote, job: _Job) -> Arrived:
    """Download the version of the file that the server has now."""
    head = await _probe(remote, job.target)
    if head.total_bytes is not None:
        require_size(job.target, head.total_bytes, job.expected, remote.host)
    if not head.ranged or head.total_bytes is None:
        return await _whole(remote, job)
    known = job.expected.sha256
    validators = Validators() if known else head.validators
    identity = Identity(head.total_bytes, known, head.validators.strong)
    try:
        with Partial(job.target, identity, remote.tuning.block_bytes) as partial:
            digest = await download_ranges(remote, partial, validators)
            partial.commit()
            arrived = Arrived(head.total_bytes, digest)
            job.accept(arrived, remote.host, partial.discard)
            partial.publish()
    except RangesIgnoredError:
        return await _whole(remote, job)
    return arrived


async def _probe(remote: Remote, target: Path) -> _Head:
    """What the server says of the file. A web page or a pointer in its place is refused here."""
    patience = remote.patience(target.name)
    while True:
        try:
            async with remote.open(0, START_BYTES, Validators()) as reply:
                start = b""
                async for piece in pieces(reply.chunks, START_BYTES):
                    start += piece
                _require_data(reply, start, remote, target)
                return _Head(reply.ranged, reply.total_bytes, reply.validators)
        except (InterruptedTransferError, RefusedError) as error:
            await patience.endure(error)


def _require_data(reply: Reply, start: bytes, remote: Remote, target: Path) -> None:
    if reply.html or is_page(start):
        raise EnvironmentNotReady(
            f"{remote.host} sends a web page instead of {target.name}",
            hint="a login or an error page may be in between: open the address in a browser, "
            "or try another --source or --mirror",
        )
    if is_pointer(start):
        raise EnvironmentNotReady(
            f"{remote.host} has only the git LFS pointer of {target.name}, not its content",
            hint="copy the file itself to the mirror (git lfs pull), or try another --source",
        )


async def _whole(remote: Remote, job: _Job) -> Arrived:
    """Read the file in one stream from its start: the server offers nothing better."""
    target = job.target
    remote.watch.notice(f"{remote.host} cannot resume: {target.name} is read in one stream")
    journal_path(target).unlink(missing_ok=True)
    patience = remote.patience(target.name)
    while True:
        try:
            arrived = await _stream(remote, job)
            break
        except (InterruptedTransferError, RefusedError) as error:
            await patience.endure(error)
    job.accept(arrived, remote.host, partial_path(target).unlink)
    partial_path(target).rename(target)
    sync_directory(target.parent)
    return arrived


async def _stream(remote: Remote, job: _Job) -> Arrived:
    target = job.target
    digest, size_bytes = hashlib.sha256(), 0
    path = partial_path(target)
    async with remote.open(None, 0, Validators()) as reply:
        total_bytes = reply.total_bytes or 0
        _require_end(reply, job, remote)
        with full_disk_explained(path.parent, "the download starts over"), path.open("wb") as file:
            async for piece in pieces(reply.chunks, sys.maxsize):
                await asyncio.to_thread(file.write, piece)
                digest.update(piece)
                size_bytes += len(piece)
                remote.watch.progress(size_bytes, total_bytes)
            await asyncio.to_thread(os.fsync, file.fileno())
    if reply.total_bytes not in (None, size_bytes):
        raise InterruptedTransferError("the server sent less than it announced")
    return Arrived(size_bytes, digest.hexdigest())


def _require_end(reply: Reply, job: _Job, remote: Remote) -> None:
    """Refuse a body of which nobody could tell whether all of it has come."""
    expected = job.expected
    if not (reply.delimited or expected.sha256 or expected.size_bytes):
        raise EnvironmentNotReady(
            f"{remote.host} tells no size of {job.target.name}, and nobody published one: "
            "whether all of it came could not be known",
            hint="try another --source or --mirror; or download it by other means, compare it "
            "with what its owner says, and kit weights import FILE",
        )
