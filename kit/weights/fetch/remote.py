"""One file at a server: where it is now, and how long to put up with the server's faults."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from kit.errors import EnvironmentNotReady
from kit.units import MIB
from kit.weights.fetch.http import (
    DataClient,
    InterruptedTransferError,
    Location,
    RefusedError,
    Reply,
    Validators,
    refused,
)
from kit.weights.fetch.partial import BLOCK_BYTES
from kit.weights.fetch.transfer import Watch

_PIECE_BYTES = MIB


@dataclass(frozen=True)
class Tuning:
    """How a download behaves.

    Attributes:
        connections: ranges read at once.
        block_bytes: what is entered into the journal at once.
        span_blocks: blocks asked for in one request.
        stall_s: seconds without a byte after which a connection is given up.
        commit_s: seconds between two entries into the journal.
        tries: without a byte in between; then the download ends.
        first_pause_s, longest_pause_s: between tries; doubled each time.
        longest_wait_s: what a server may ask for by Retry-After.
    """

    connections: int = 4
    block_bytes: int = BLOCK_BYTES
    span_blocks: int = 4
    stall_s: float = 30.0
    commit_s: float = 1.0
    tries: int = 8
    first_pause_s: float = 1.0
    longest_pause_s: float = 60.0
    longest_wait_s: float = 300.0


class Remote:
    """Opens one file, and asks again where it is when its URL has expired."""

    def __init__(
        self, client: DataClient, locate: Callable[[], Location], tuning: Tuning, watch: Watch
    ) -> None:
        self._client = client
        self._locate = locate
        self._location: Location | None = None
        self._lock = asyncio.Lock()
        self.tuning = tuning
        self.watch = watch

    @property
    def host(self) -> str:
        """For messages."""
        return self._location.host if self._location else "the server"

    @asynccontextmanager
    async def open(
        self, start: int | None, stop: int, validators: Validators
    ) -> AsyncIterator[Reply]:
        """Ask for a range, or for the whole file (None). Raises as ``DataClient.open``."""
        async with self._lock:
            if self._location is None:
                self._location = await asyncio.to_thread(self._locate)
            location = self._location
        try:
            async with self._client.open(location, start, stop, validators) as reply:
                yield reply
        except RefusedError:
            if self._location is location:
                self._location = None
            raise

    def patience(self, what: str) -> "Patience":
        """A fresh count of tries for one stream of bytes."""
        return Patience(self, what)


class Patience:
    """Counts the tries in a row that brought nothing, and waits between them."""

    def __init__(self, remote: Remote, what: str) -> None:
        self._remote = remote
        self._what = what
        self._tries = 0
        self._refusals = 0

    def progressed(self) -> None:
        """Bytes have come: the count starts anew."""
        self._tries = self._refusals = 0

    async def endure(self, error: InterruptedTransferError | RefusedError) -> None:
        """Wait for the next try.

        Raises:
            EnvironmentNotReady: enough tries were made, or a new URL was refused as well.
        """
        if isinstance(error, RefusedError):
            self._refusals += 1
            if self._refusals > 1:
                raise refused(error, self._what) from error
            return
        tuning = self._remote.tuning
        self._tries += 1
        asked_s = error.pause_s or 0.0
        if self._tries >= tuning.tries or asked_s > tuning.longest_wait_s:
            wait = f", which asks to wait for {asked_s:.0f} s" if asked_s else ""
            raise EnvironmentNotReady(
                f"the download of {self._what} from {self._remote.host}{wait} broke off: {error}",
                hint="run the same command again: it goes on where it stopped; "
                "or try another --source or --mirror",
            ) from error
        pause_s = min(tuning.first_pause_s * 2 ** (self._tries - 1), tuning.longest_pause_s)
        pause_s = max(asked_s, pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
        self._remote.watch.notice(f"{self._remote.host}: {error}; next try in {pause_s:.1f} s")
        await asyncio.sleep(pause_s)


async def pieces(chunks: AsyncIterator[bytes], most_bytes: int) -> AsyncIterator[bytearray]:
    """Join chunks into pieces of about a MiB, at most ``most_bytes`` in all.

    What had come when a transfer broke off is handed out before the error is. A body of the right
    length is read to its very end, so that its connection can be used again.
    """
    held = bytearray()
    try:
        async for chunk in chunks:
            held += chunk[:most_bytes]
            if len(chunk) > most_bytes:
                break
            most_bytes -= len(chunk)
            if len(held) >= _PIECE_BYTES:
                yield held
                held = bytearray()
    except InterruptedTransferError:
        if held:
            yield held
        raise
    if held:
        yield held
