"""uvicorn's HTTP connection, which also ends when what it waits for does not come in time."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 20.0
"""From a connection's first moment, or the first byte of its next request, to its last header; and
from an answer to the end of a body that it did not need."""


class Connection(H11Protocol):
    """Closes what only trickles: headers, and the rest of a body whose request has its answer.

    A body that is wanted is bounded in :mod:`kit.serve.bodies`; an idle connection between two
    requests is uvicorn's to close.
    """

    header_seconds = HEADER_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect headers."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Expect what is still missing, if anything is."""
        super().data_received(data)
        self._expect()

    def on_response_complete(self) -> None:
        """Expect the rest of a body that was not read."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing."""
        self._expect_nothing()
        super().connection_lost(exc)

    def _waits(self) -> bool:
        answered = self.cycle is not None and self.cycle.response_complete
        theirs = self.conn.their_state
        return theirs is h11.IDLE or (theirs is h11.SEND_BODY and answered)

    def _expect(self) -> None:
        if not self._waits():
            self._expect_nothing()
        elif self._due is None:
            self._due = self.loop.call_later(self.header_seconds, self._late)

    def _expect_nothing(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _late(self) -> None:
        self._due = None
        if self._waits() and not self.transport.is_closing():
            self.transport.close()
