"""What every request passes: the log line and its count, the API key, the size limit."""

import hmac
import logging
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kit.serve.bodies import Body, BodyBudget
from kit.serve.errors import CLIENT_GONE, ApiError
from kit.serve.generation import Answers
from kit.serve.metrics import Metrics

logger = logging.getLogger("kit.serve")

_QUIET_ROUTES = ("/health", "/v1/health", "/metrics")


class Observe:
    """Counts every request, and logs it in one line unless it is a probe's or a scraper's."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = time.monotonic()
        status = CLIENT_GONE

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, observed_send)
        except Exception:
            status = 500
            raise
        finally:
            self._note(scope, status, time.monotonic() - started)
        return None

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        self._metrics.request(route, status, seconds)
        if not _is_quiet(route):
            client = scope["client"][0] if scope.get("client") else "-"
            place = f"{scope['method']} {scope['path']!r}"
            logger.info("%s %s %d %.3f s", client, place, status, seconds)


class Gate:
    """Asks ``/v1`` requests for the API key, if there is one, and bounds every request's body."""

    def __init__(
        self,
        app: ASGIApp,
        api_key: str | None,
        max_body_bytes: int,
        body_seconds: float,
        answers: Answers,
    ) -> None:
        self._app = app
        self._expected = None if api_key is None else api_key.encode()
        self._max_body_bytes, self._body_seconds = max_body_bytes, body_seconds
        self._answers = answers
        self._bodies = BodyBudget()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if self._needs_key(scope["path"]) and not self._has_key(Headers(scope=scope)):
            message = "A valid API key is needed: send it as 'Authorization: Bearer KEY'."
            refusal = ApiError(401, message, code="invalid_api_key").response()
            refusal.headers["WWW-Authenticate"] = "Bearer"
            return await refusal(scope, receive, send)
        body = Body(
            scope,
            receive,
            self._bodies,
            self._max_body_bytes,
            self._body_seconds,
            lambda: self._answers.ending,
        )
        try:
            return await self._app(scope, body.receive, send)
        finally:
            body.release()

    def _needs_key(self, path: str) -> bool:
        return self._expected is not None and path.startswith("/v1/") and not _is_quiet(path)

    def _has_key(self, headers: Headers) -> bool:
        if self._expected is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        matches = hmac.compare_digest(given.strip().encode("latin-1"), self._expected)
        return matches and scheme.lower() == "bearer"  # in any case: RFC 9110, 11.1


def _is_quiet(path: str) -> bool:
    return path.startswith(_QUIET_ROUTES)
