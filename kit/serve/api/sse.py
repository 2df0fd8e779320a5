"""Server-sent events, and requests that end when their client goes away."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from kit.serve.api.errors import ApiError

PING_SECONDS = 15.0
"""Proxies and clients give up a connection that was silent for longer, 30 to 60 s as a rule."""
_PING = b": ping\n\n"
Result = TypeVar("Result")
Events = AsyncGenerator[dict[str, Any], None]


class EventStream(StreamingResponse):
    """Sends each object as one ``data:`` line, then ``[DONE]``; an ApiError becomes a last event.

    Where no object comes for a while, a comment shows that the server lives.
    ``events`` is closed at once when the client goes away; ``on_end`` is called in any case, even
    where no event was ever asked for.
    """

    def __init__(self, events: Events, on_end: Callable[[], None] = lambda: None) -> None:
        self._lines, self._on_end = _lines(events), on_end
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(self._lines, media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        try:
            async with aclosing(self._lines):
                await super().__call__(scope, receive, send)
        finally:
            self._on_end()


async def _lines(events: Events) -> AsyncGenerator[bytes, None]:
    async with aclosing(events), aclosing(_or_silence(events)) as heard:
        try:
            async for event in heard:
                yield _PING if event is None else b"data: %s\n\n" % _json(event)
        except ApiError as error:
            yield b"event: error\ndata: %s\n\n" % _json(error.body())
        else:
            yield b"data: [DONE]\n\n"


async def _or_silence(events: Events) -> AsyncGenerator[dict[str, Any] | None, None]:
    """The events, and None whenever none has come for :data:`PING_SECONDS`."""
    end: dict[str, Any] = {}
    while True:
        coming = asyncio.ensure_future(anext(events, end))
        try:
            while not (await asyncio.wait({coming}, timeout=PING_SECONDS))[0]:
                yield None
        finally:
            if not coming.done():  # the client has gone
                coming.cancel()
                await asyncio.wait({coming})
        if coming.result() is end:
            return
        yield coming.result()


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of ``work``, which is cancelled when the client goes away first.

    Raises:
        ClientDisconnect: the client has gone.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.wait({working, leaving})


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
