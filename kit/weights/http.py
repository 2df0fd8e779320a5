"""Talking to the servers that hold weights: opening files, and what may go wrong with a server.

Proxies come from the environment, see ``kit.weights.proxy``; httpx takes an own certificate
authority from ``SSL_CERT_FILE``. It sends ``Authorization`` to the host that was asked
and never on to another one that a redirect names.
"""

import email.utils
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx

import kit
from kit.errors import EnvironmentNotReady
from kit.weights.proxy import AsyncProxiedTransport

AGENT = {"User-Agent": f"spark-kit/{kit.__version__}", "Accept-Encoding": "identity"}
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_REFUSED = {401, 403, 404, 410}
NO_SUCH_RANGE = 416
CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")
CONNECT_S = 15.0


@dataclass(frozen=True)
class Location:
    """Where a file can be read now. ``token_variable`` is named when access is refused."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    token_variable: str | None = None

    @property
    def host(self) -> str:
        """Host and port, for messages: a URL may carry a signature that is nobody's business."""
        return httpx.URL(self.url).netloc.decode()


@dataclass(frozen=True)
class Validators:
    """What tells one version of a file at a server from another."""

    etag: str | None = None
    last_modified: str | None = None

    @property
    def strong(self) -> str | None:
        """What ``If-Range`` may carry (RFC 9110, 13.1.5); None where the server sends neither."""
        if self.etag and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified


class InterruptedTransferError(Exception):
    """The transfer broke off; another try may succeed, after ``pause_s`` if the server said so."""

    def __init__(self, reason: str, pause_s: float | None = None) -> None:
        super().__init__(reason)
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
    """

    ranged: bool
    total_bytes: int | None
    validators: Validators
    html: bool
    chunks: AsyncIterator[bytes]


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
            async with self._client.stream("GET", location.url, headers=headers) as response:
                yield _reply(location, response, start)


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
    length = response.headers.get("Content-Length")
    total = int(length) if length is not None else None
    return Reply(False, total, validators, html, _data(location, response))


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
    if text.isdecimal():
        return float(text)
    try:
        when = email.utils.parsedate_to_datetime(text)
    except ValueError:
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
    except (httpx.TooManyRedirects, httpx.InvalidURL) as error:
        raise EnvironmentNotReady(
            f"{location.host} leads nowhere: {error}", hint="try another --source or --mirror"
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
            f"{asked.host} redirects from https to {target.scheme}",
            hint="that would give up the protection against changed data; "
            "try another --source or --mirror",
        )


async def _keep_tls_later(response: httpx.Response) -> None:
    keep_tls(response)


async def _data(location: Location, response: httpx.Response) -> AsyncIterator[bytes]:
    with faults(location, response.request.extensions["timeout"]["read"]):
        async for chunk in response.aiter_raw():
            yield chunk


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""
