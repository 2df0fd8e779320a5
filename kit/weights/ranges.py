"""A file read in ranges over several connections, its blocks entered into a journal."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kit.units import MIB
from kit.weights.blocks import Blocks
from kit.weights.follow import FollowingDigest
from kit.weights.http import InterruptedTransferError, RefusedError, Reply, Validators
from kit.weights.partial import Partial
from kit.weights.remote import Remote, pieces

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
