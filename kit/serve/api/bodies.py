"""Bodies of requests: how long one may be, or take to come, and how much all may hold together."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from kit.serve.api.errors import ApiError, bad_request
from kit.serve.api.schema import MAX_PROMPTS
from kit.serve.heap import tidy
from kit.units import KIB, MIB

BODY_SECONDS = 30.0
"""From a request's headers to the end of its body: the longest one at 1.1 Mbit/s."""
SMALL_BYTES = 64 * KIB
"""Nearly every conversation is shorter. What large bodies hold does not keep them out."""
# How late a body that takes too long may be noticed.
_LOOK_SECONDS = 0.5
# By then the answer is out and what the body held is garbage.
_TIDY_SECONDS = 1.0
_ANY_CONTEXT = 32768
"""Tokens, of a model that is not loaded yet: the longest context that there is."""
# Values beside messages and prompts: parameters, stop strings, logit biases.
_SPARE = 1000
_CLOSE = {"Connection": "close"}
"""For who sends nothing more. A client that goes on sending would lose its answer by that."""


@dataclass
class BodyBudget:
    """Bytes that all requests under way may hold of their bodies: of the small, and of the large.

    Held until the request has been answered. Parsed, a body takes up to seven times as much: all
    together stay below what a budget of host RAM adds to the plan. Two of the longest bodies fit
    at once: what more of them leave in Python's heap, which cannot be given back whole, was seen to
    stay as long as the server.
    """

    small_bytes: int = 16 * MIB
    large_bytes: int = 8 * MIB
    _tidying: asyncio.TimerHandle | None = None

    def take(self, small_bytes: int, large_bytes: int) -> bool:
        """Take so many bytes more; False, and nothing is taken, where there is no room."""
        if small_bytes > self.small_bytes or large_bytes > self.large_bytes:
            return False
        self.small_bytes -= small_bytes
        self.large_bytes -= large_bytes
        return True

    def give(self, small_bytes: int, large_bytes: int) -> None:
        """Give back what was taken."""
        self.small_bytes += small_bytes
        self.large_bytes += large_bytes

    def tidy_soon(self) -> None:
        """Free what large bodies have left, once they are gone for sure."""
        if self._tidying is None:
            self._tidying = asyncio.get_running_loop().call_later(_TIDY_SECONDS, self._tidy)

    def _tidy(self) -> None:
        self._tidying = None
        asyncio.get_running_loop().run_in_executor(None, tidy)


class Body:
    """One request's body on its way in.

    Args:
        scope: of the request.
        receive: ASGI's.
        budget: of all bodies.
        max_bytes: of this one.
        seconds: that it may take.
        ending: why no more bodies are read; None: they are.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        budget: BodyBudget,
        max_bytes: int,
        seconds: float = BODY_SECONDS,
        ending: Callable[[], ApiError | None] = lambda: None,
    ) -> None:
        self._receive, self._budget, self._max_bytes = receive, budget, max_bytes
        self._deadline = time.monotonic() + seconds
        self._ending = ending
        self._size_bytes = 0
        self._complete = False
        self._announced_bytes = int(Headers(scope=scope).get("content-length") or 0)

    async def receive(self) -> Message:
        """The next part. Once the body is complete, whatever comes, however long it takes.

        Raises:
            HTTPException: 413 when it is too long, 503 when too much is held already, 408 when it
                takes too long. Any other error would be FastAPI's 400.
        """
        if self._complete:
            return await self._receive()
        if max(self._announced_bytes, self._size_bytes) > self._max_bytes:
            raise self._too_long()
        message = await self._in_time()
        self._take(len(message.get("body", b"")))
        self._complete = not message.get("more_body", False)
        return message

    def release(self) -> None:
        """The request has been answered: what was held is free again.

        Of a large body the C library would keep most, in holes of many threads' heaps.
        """
        self._budget.give(*_split(self._size_bytes))
        if self._size_bytes > SMALL_BYTES:
            self._budget.tidy_soon()
        self._size_bytes = 0

    async def _in_time(self) -> Message:
        part = asyncio.ensure_future(self._receive())
        try:
            while not part.done():
                left = self._deadline - time.monotonic()
                if left <= 0:
                    message = "The body of the request did not come in time."
                    raise HTTPException(408, message, _CLOSE)
                if (ending := self._ending()) is not None:
                    raise HTTPException(ending.status, ending.message, _CLOSE)
                await asyncio.wait({part}, timeout=min(left, _LOOK_SECONDS))
            return part.result()
        finally:
            part.cancel()

    def _take(self, more_bytes: int) -> None:
        size_bytes = self._size_bytes + more_bytes
        if size_bytes > self._max_bytes:
            raise self._too_long()
        before, after = _split(self._size_bytes), _split(size_bytes)
        if not self._budget.take(after[0] - before[0], after[1] - before[1]):
            message = "The server holds too many large requests. Please try again later."
            raise HTTPException(503, message, {"Retry-After": "5"})
        self._size_bytes = size_bytes

    def _too_long(self) -> HTTPException:
        return HTTPException(413, f"The body is over {self._max_bytes} bytes.")


def _split(size_bytes: int) -> tuple[int, int]:
    """The small part of a size, and the rest."""
    small_bytes = min(size_bytes, SMALL_BYTES)
    return small_bytes, size_bytes - small_bytes


class BoundedRoute(APIRoute):
    """A route whose body is counted before Python makes objects of it.

    A body of 4 MB can hold a million empty objects, which take seventy times as much, and leave
    holes in Python's heap for as long as the server lives.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's, behind the count."""
        handle = super().get_route_handler()

        async def count_and_handle(request: Request) -> Response:
            with contextlib.suppress(ClientDisconnect):  # which FastAPI meets again, and answers
                body = await request.body()
                if len(body) > SMALL_BYTES:
                    loaded = request.app.state.readiness.loaded
                    context = loaded.info.context_length if loaded else _ANY_CONTEXT
                    await asyncio.to_thread(require_few_values, body, context)
            return await handle(request)

        return count_and_handle


def require_few_values(body: bytes, context: int) -> None:
    """Return when JSON holds no more values than a request that fits the context can need.

    A message, which takes a token at least, is one object, or three with a part of content in a
    list; a prompt is as many numbers as the context has tokens.

    Args:
        body: need not be JSON.
        context: in tokens.

    Raises:
        ApiError: it holds more.
    """
    import numpy as np

    text = np.frombuffer(body.replace(rb"\\", b"").replace(rb"\"", b""), dtype=np.uint8)
    outside = np.bitwise_xor.accumulate(text == ord('"')) == 0
    containers = np.count_nonzero(outside & ((text == ord("{")) | (text == ord("["))))
    values = np.count_nonzero(outside & (text == ord(",")))
    if containers > 3 * context + _SPARE or values > MAX_PROMPTS * context + _SPARE:
        raise bad_request(
            f"The body holds {containers} lists and objects and {values} further values, more than "
            f"any request that fits this model's context of {context} tokens.",
            code="context_length_exceeded",
        )
