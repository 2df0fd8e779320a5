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

from kit.serve.errors import ApiError

Result = TypeVar("Result")
Events = AsyncGenerator[dict[str, Any], None]


class EventStream(StreamingResponse):
    """Sends each object as one ``data:`` line, then ``[DONE]``; an ApiError becomes a last event.

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
    async with aclosing(events):
        try:
            async for event in events:
                yield b"data: %s\n\n" % _json(event)
        except ApiError as error:
            yield b"event: error\ndata: %s\n\n" % _json(error.body())
        else:
            yield b"data: [DONE]\n\n"


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
