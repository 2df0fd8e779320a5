"""Talking to the servers that hold weights: opening files, and what may go wrong with a server.

Proxies come from the environment, see ``kit.weights.fetch.proxy``; httpx takes an own certificate
authority from ``SSL_CERT_FILE``. It sends ``Authorization`` to the host that was asked
and never on to another one that a redirect names.
"""

import asyncio
import email.utils
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx

import kit
from kit.errors import EnvironmentNotReady, printable
from kit.weights.fetch.proxy import AsyncProxiedTransport

AGENT = {"User-Agent": f"spark-kit/{kit.__version__}", "Accept-Encoding": "identity"}
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_REFUSED = {401, 403, 404, 410}
NO_SUCH_RANGE = 416
_SIZE = (
    r"[0-9]{1,18}"  # ASCII digits below 2**63: int() refuses 5000 of them, files cannot be so big
)
CONTENT_RANGE = re.compile(rf"bytes (?:({_SIZE})-({_SIZE})|\*)/({_SIZE}|\*)")
# Across continents and proxies a connection takes seconds, not more.
CONNECT_S = 15.0
HEADERS_S = 60.0
"""From a request to the end of the answer's headers, redirects included."""
SLOW_S, SLOWEST_BYTES_S = 60.0, 1024
"""What comes slower over a minute brings no weights in this life: 27 GB would take ten months."""


@dataclass(frozen=True)
class Location:
    """Where a file can be read now. ``token_variable`` is named when access is refused."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    token_variable: str | None = None

    @property
    def host(self) -> str:
        """Host and port, for messages: a URL may carry a signature that is nobody's business."""
        try:
            return printable(httpx.URL(self.url).netloc.decode("ascii", "replace"))
        except httpx.InvalidURL:
            return "an address that is none"


@dataclass(frozen=True)
class Validators:
    """What tells one version of a file at a server from another."""

    etag: str | None = None
    last_modified: str | None = None

    @property
    def strong(self) -> str | None:
        """What ``If-Range`` may carry (RFC 9110, 13.1.5); None where the server sends neither."""
        for value in (self.etag, self.last_modified):
            if value and not value.startswith("W/") and value.isascii() and value.isprintable():
                return value
        return None


class InterruptedTransferError(Exception):
    """The transfer broke off; another try may succeed, after ``pause_s`` if the server said so."""

    def __init__(self, reason: str, pause_s: float | None = None) -> None:
        super().__init__(printable(reason))
        self.pause_s = pause_s


class RefusedError(Exception):
    """The server refuses this URL (401, 403, 404, 410): it has expired, or there is no access."""

    def __init__(self, location: Location, status: int) -> None:
        super().__init__(f"{location.host} answers HTTP {status}")
        self.location = location
        self.status = status


@dataclass(frozen=True)
class Reply:
    """The beginning of an answer that carries data.

    Attributes:
        ranged: whether it is the range that was asked for (206), not the whole file (200).
        total_bytes: of the whole file; None where the server does not tell.
        html: whether it calls itself a web page.
        chunks: the data, as it comes.
        delimited: off, where the body ends with the connection, so that a cut looks like an end.
    """

    ranged: bool
    total_bytes: int | None
    validators: Validators
    html: bool
    chunks: AsyncIterator[bytes]
    delimited: bool = True


class DataClient:
    """Opens files for reading, over as many connections as are asked for. A context manager."""

    def __init__(self, connections: int, stall_s: float) -> None:
        self._stall_s = stall_s
        self._client = httpx.AsyncClient(
            follow_redirects=True,
            headers=AGENT,
            timeout=httpx.Timeout(stall_s, connect=CONNECT_S, pool=None),
            transport=AsyncProxiedTransport(httpx.Limits(max_connections=connections + 1)),
            event_hooks={"response": [_keep_tls_later]},
        )

    async def __aenter__(self) -> "DataClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    @asynccontextmanager
    async def open(
        self, location: Location, start: int | None, stop: int, validators: Validators
    ) -> AsyncIterator[Reply]:
        """Ask for the bytes from ``start`` up to ``stop``, or for the whole file (None).

        Raises:
            InterruptedTransferError: no connection, no bytes for a while, a passing fault; also
                out of the reply's chunks.
            RefusedError: the server will not give this URL.
            EnvironmentNotReady: it will not get better by itself.
        """
        headers = dict(location.headers)
        if start is not None:
            headers["Range"] = f"bytes={start}-{stop - 1}"
            if validators.strong:
                headers["If-Range"] = validators.strong
        with faults(location, self._stall_s):
            request = self._client.build_request("GET", location.url, headers=headers)
            try:
                async with asyncio.timeout(HEADERS_S):
                    response = await self._client.send(request, stream=True)
            except TimeoutError as error:
                raise InterruptedTransferError("the answer does not begin") from error
            try:
                yield _reply(location, response, start)
            finally:
                await response.aclose()


def refused(error: RefusedError, what: str) -> EnvironmentNotReady:
    """What a user is told when ``what`` was refused."""
    variable = error.location.token_variable
    if error.status in (401, 403):
        step = f"set {variable} to an access token, or try" if variable else "try"
        return EnvironmentNotReady(
            f"{error.location.host} refuses access to {what} (HTTP {error.status})",
            hint=f"{step} another --source or --mirror",
        )
    return EnvironmentNotReady(
        f"{error.location.host} has no {what} (HTTP {error.status})",
        hint="try another --source or --mirror; kit weights list shows them",
    )


def _reply(location: Location, response: httpx.Response, start: int | None) -> Reply:
    validators = Validators(response.headers.get("ETag"), response.headers.get("Last-Modified"))
    found = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status_code == NO_SUCH_RANGE and found and found[3] == "0":
        return Reply(True, 0, validators, False, _nothing())
    require_success(location, response)
    if response.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
        raise EnvironmentNotReady(
            f"{location.host} answers HTTP {response.status_code}, which carries no file",
            hint="try another --source or --mirror",
        )
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise EnvironmentNotReady(
            f"{location.host} sends the file in a compressed form that was not asked for",
            hint="try another --source or --mirror",
        )
    html = is_html(response.headers)
    if response.status_code == 206:
        if found is None or found[1] is None or int(found[1]) != start:
            raise InterruptedTransferError("the server sent another range than was asked for")
        total = int(found[3]) if found[3] != "*" else None
        return Reply(True, total, validators, html, _data(location, response))
    total = size_of(response.headers.get("Content-Length"))
    chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
    delimited = chunked or total is not None
    return Reply(False, total, validators, html, _data(location, response), delimited)


def size_of(text: str | None) -> int | None:
    """The number that a header holds; None: there is none, or it can be no file's size."""
    return int(text) if text is not None and re.fullmatch(_SIZE, text) else None


def is_html(headers: Mapping[str, str]) -> bool:
    """Whether an answer calls itself a web page."""
    return headers.get("Content-Type", "").lower().startswith("text/html")


def require_success(location: Location, response: httpx.Response) -> None:
    """Raise what an answer without success means; see :meth:`DataClient.open`."""
    status = response.status_code
    if status in _PASSING:
        raise InterruptedTransferError(f"HTTP {status}", _retry_after(response))
    if status in _REFUSED:
        raise RefusedError(location, status)
    if not response.is_success:
        raise EnvironmentNotReady(
            f"{location.host} answers HTTP {status}", hint="try another --source or --mirror"
        )


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds, from a number or a date (RFC 9110, 10.2.3)."""
    text = response.headers.get("Retry-After", "")
    seconds = size_of(text)
    if seconds is not None:
        return float(seconds)
    try:
        when = email.utils.parsedate_to_datetime(text)
    except (ValueError, OverflowError, TypeError):  # the year 90000000000 is an overflow
        return None
    return max(0.0, (when - datetime.now(UTC)).total_seconds()) if when.tzinfo else None


@contextmanager
def faults(location: Location, stall_s: float) -> Iterator[None]:
    """Turn httpx's errors into those of this module."""
    try:
        yield
    except httpx.ReadTimeout as error:
        raise InterruptedTransferError(f"no data for {stall_s:g} s") from error
    except httpx.TransportError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise EnvironmentNotReady(
                f"the certificate of {location.host} cannot be verified",
                hint="where a company proxy has its own certificate authority, set SSL_CERT_FILE "
                "to its certificate; also check this machine's clock",
            ) from error
        raise InterruptedTransferError(str(error) or type(error).__name__) from error
    except httpx.DecodingError as error:
        raise EnvironmentNotReady(
            f"{location.host} sends an answer that is damaged: {printable(str(error))}",
            hint="a proxy may be in between; try another --source or --mirror",
        ) from error
    except (httpx.TooManyRedirects, httpx.InvalidURL, UnicodeError) as error:
        raise EnvironmentNotReady(
            f"{location.host} leads nowhere: {printable(str(error))}",
            hint="try another --source or --mirror",
        ) from error


def keep_tls(response: httpx.Response) -> None:
    """Follow no redirect from https to anything else.

    Raises:
        EnvironmentNotReady: this is one.
    """
    if not response.has_redirect_location:
        return
    asked = response.request.url
    target = asked.join(response.headers["Location"])
    if asked.scheme == "https" != target.scheme:
        raise EnvironmentNotReady(
            f"{asked.host} redirects from https to {printable(target.scheme)}",
            hint="that would give up the protection against changed data; "
            "try another --source or --mirror",
        )


async def _keep_tls_later(response: httpx.Response) -> None:
    keep_tls(response)


async def _data(location: Location, response: httpx.Response) -> AsyncIterator[bytes]:
    with faults(location, response.request.extensions["timeout"]["read"]):
        waited_s, came_bytes = 0.0, 0
        asked = time.monotonic()
        async for chunk in response.aiter_raw():
            waited_s += time.monotonic() - asked  # what the disk takes meanwhile does not count
            came_bytes += len(chunk)
            if waited_s >= SLOW_S:
                _require_speed(location, came_bytes / waited_s)
                waited_s, came_bytes = 0.0, 0
            yield chunk
            asked = time.monotonic()


def _require_speed(location: Location, bytes_s: float) -> None:
    if bytes_s < SLOWEST_BYTES_S:
        raise EnvironmentNotReady(
            f"{location.host} sends {bytes_s:.0f} bytes a second",
            hint="run the same command again: it goes on where it stopped; "
            "or try another --source or --mirror",
        )


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""
