"""What every request passes: name and log line, the host that it asks, API key, size limit."""

import hmac
import logging
import re
import time
import uuid
from collections.abc import Collection
from collections.abc import Set as AbstractSet
from ipaddress import ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kit.serve.api.bodies import Body, BodyBudget
from kit.serve.api.errors import CLIENT_GONE, REQUEST_ID, ApiError
from kit.serve.api.generation import Answers
from kit.serve.api.metrics import Metrics
from kit.serve.api.neutral import UNKNOWN, UnknownParameters

logger = logging.getLogger("kit.serve")

_QUIET_ROUTES = ("/health", "/v1/health", "/metrics")
_GIVEN_ID = re.compile(r"[!-~]{1,128}")
"""Printable ASCII without blanks: a line of the log stays one line, and its words apart."""
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^:\[\]]*)(:(?P<port>[0-9]{0,5}))?", re.IGNORECASE)
_ABSOLUTE = re.compile(r"https?://(?P<host>[^/?#]*)(?P<path>.*)", re.IGNORECASE | re.DOTALL)


_LAST_PORT = 65535


class Observe:
    """Counts every request, and logs it in one line unless it is a probe's or a scraper's.

    A request's name is what the client gives as ``x-request-id``, else a new one; the response
    has it, too. Slashes at the end of a path mean nothing.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = time.monotonic()
        status = CLIENT_GONE
        if target := _ABSOLUTE.fullmatch(scope["path"]):
            _ask_as_proxies_do(scope, target["host"], target["path"])
        scope["path"] = scope["path"].rstrip("/") or "/"
        state = scope.setdefault("state", {})
        state["request_id"] = _request_id(Headers(scope=scope))

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = state["request_id"]
            await send(message)

        try:
            await self._app(scope, receive, observed_send)
        except Exception as error:
            status, state["reason"] = 500, type(error).__name__
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
            told = scope["state"]["request_id"]
            if reason := scope["state"].get("reason"):
                told += f": {reason}"
            logger.info("%s %s %d %.3f s %s", client, place, status, seconds, told)


def _ask_as_proxies_do(scope: Scope, host: str, path: str) -> None:
    """A target with scheme and host means what the path alone does; its host wins over the header's
    (RFC 9112, 3.2.2).
    """
    scope["path"] = path
    others = [(name, value) for name, value in scope["headers"] if name != b"host"]
    scope["headers"] = [(b"host", host.encode("latin-1", "replace")), *others]


def _request_id(headers: Headers) -> str:
    given = headers.get(REQUEST_ID, "")
    return given if _GIVEN_ID.fullmatch(given) else uuid.uuid4().hex


class HostCheck:
    """Refuses requests that ask another host than this one.

    A web page of ``evil.example`` may let its name lead to 127.0.0.1 once it is loaded (DNS
    rebinding); its browser then takes this server for the page's own. The name in ``Host`` stays.
    Addresses are never refused: they are no names that could lead elsewhere.

    Args:
        app: for the others.
        allowed: names, ``*.example.org`` for all below one, ``*`` for any.
    """

    def __init__(self, app: ASGIApp, allowed: AbstractSet[str]) -> None:
        self._app, self._allowed = app, allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http" or self._allows(Headers(scope=scope).get("host")):
            return await self._app(scope, receive, send)
        message = "The request's Host is not this server's. KIT_ALLOW_HOSTS names further hosts."
        refusal = ApiError(400, message, code="host_not_allowed").response_to(scope)
        return await refusal(scope, receive, send)

    def _allows(self, header: str | None) -> bool:
        if header is None:
            return True  # HTTP/1.0: no browser
        found = _HOST.fullmatch(header)
        if found is None or int(found["port"] or 0) > _LAST_PORT:
            return False
        name = found["name"].lower().removesuffix(".")
        if name.startswith("[") or _is_address(name):
            return True
        below = (f"*.{name.split('.', dots)[-1]}" for dots in range(1, name.count(".") + 1))
        plain = () if "." in name else (PLAIN_NAMES,)
        return not self._allowed.isdisjoint({"*", name, *below, *plain}) if name else False


PLAIN_NAMES = "<plain>"
"""In a set of allowed hosts: every name without a dot, as containers of one network have."""


def own_hosts(
    bound: str, further: Collection[str], published: str | None = None
) -> frozenset[str] | None:
    """Names that a server which listens on ``bound`` is asked by; None: any, it is not checked.

    On loopback it is, elsewhere only where the user has named hosts.

    Args:
        published: in a container, the host's address that its port is published on: that decides.
            Its neighbours ask it by names without a dot, which no page of the Internet has.
    """
    place = (published or bound).strip("[]")
    is_loopback = place == "localhost" or (_is_address(place) and ip_address(place).is_loopback)
    if not is_loopback and not further:
        return None
    neighbours = (PLAIN_NAMES,) if published else ()
    return frozenset({"localhost", "*.localhost", bound.lower(), *further, *neighbours})


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


class Gate:
    """Asks ``/v1`` requests for the API key, if there is one, and bounds every request's body.

    Whoever reads the body is told what to do with parameters that are not known.
    """

    def __init__(
        self,
        app: ASGIApp,
        api_key: str | None,
        max_body_bytes: int,
        body_seconds: float,
        answers: Answers,
        unknown_parameters: UnknownParameters = "refuse",
    ) -> None:
        self._app = app
        self._expected = None if api_key is None else api_key.encode()
        self._max_body_bytes, self._body_seconds = max_body_bytes, body_seconds
        self._answers, self._unknown_parameters = answers, unknown_parameters
        self._bodies = BodyBudget()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if self._needs_key(scope["path"]) and not self._has_key(Headers(scope=scope)):
            message = "A valid API key is needed: send it as 'Authorization: Bearer KEY'."
            challenge = {"WWW-Authenticate": "Bearer"}
            error = ApiError(401, message, code="invalid_api_key", headers=challenge)
            refusal = error.response_to(scope)
            return await refusal(scope, receive, send)
        encoding = Headers(scope=scope).get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity"):
            refusal = _encoded(encoding).response_to(scope)
            return await refusal(scope, receive, send)
        UNKNOWN.set(self._unknown_parameters)
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


def _encoded(encoding: str) -> ApiError:
    """A body that would have to be unpacked first, to a size that nobody knows."""
    message = f"The body's Content-Encoding is {encoding[:40]!r}: send it as it is, without one."
    return ApiError(
        415, message, code="unsupported_content_encoding", headers={"Accept-Encoding": "identity"}
    )


def _is_quiet(path: str) -> bool:
    return path.startswith(_QUIET_ROUTES)
