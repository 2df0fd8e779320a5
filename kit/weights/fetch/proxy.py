"""Proxies as the environment names them, read as curl and requests read them.

``https_proxy``, ``http_proxy`` and ``all_proxy`` in lower or upper case; ``no_proxy`` with names,
addresses, networks and ports. httpx's own reading knows no ``socks:``, no networks, and no blanks
between the entries of NO_PROXY, and fails with a traceback where a value is damaged.
"""

import ipaddress
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpcore
import httpx
import socksio

from kit.errors import UsageError

_SCHEMES = {
    "http": "http",
    "https": "https",
    "socks": "socks5",  # what GNOME and Clash write
    "socks5": "socks5",
    "socks5h": "socks5h",
}
_PORTS = {"http": 80, "https": 443}
_PORTS_END = 1 << 16
_GREETING_S = 15.0
"""As long as a connection may take to be made; a proxy greets at once."""


def proxy_of(url: httpx.URL, environ: Mapping[str, str] = os.environ) -> httpx.URL | None:
    """The proxy that leads to ``url``; None: it is reached directly.

    Raises:
        UsageError: the variable that names it cannot be understood.
    """
    for name in (f"{url.scheme}_proxy", "all_proxy"):
        for variable in (name, name.upper()):
            if variable in environ:
                break
        value = environ.get(variable, "").strip()
        if value:
            return None if _is_excepted(url, environ) else _understood(variable, value)
    return None


def for_others(environ: Mapping[str, str]) -> dict[str, str]:
    """The same settings in the form that every library reads, huggingface_hub's among them.

    Raises:
        UsageError: a variable cannot be understood.
    """
    found = {}
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        for variable in (name, name.upper()):
            if value := environ.get(variable, "").strip():
                found[variable] = str(_understood(variable, value))
    for variable in ("no_proxy", "NO_PROXY"):
        if entries := re.split(r"[,\s]+", environ.get(variable, "").strip(", \t\n")):
            names = [re.sub(r"^\[(.*)\]$", r"\1", entry).removeprefix("*.") for entry in entries]
            found |= {variable: ",".join(names)} if any(names) else {}
    return found


class ProxiedTransport(httpx.BaseTransport):
    """Sends each request by the proxy that the environment names for its address."""

    def __init__(self, total_s: float) -> None:
        """``total_s`` is for all that is read, from now on."""
        self._until = time.monotonic() + total_s
        self._transports: dict[httpx.URL | None, httpx.HTTPTransport] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Raises as httpx's transports do, and as ``proxy_of``."""
        proxy = proxy_of(request.url)
        if proxy not in self._transports:
            transport = httpx.HTTPTransport(proxy=proxy and httpx.Proxy(proxy))
            pool = transport._pool
            pool._network_backend = _Bounded(pool._network_backend, self._until)
            self._transports[proxy] = transport
        with _socks_faults():
            return self._transports[proxy].handle_request(request)

    def close(self) -> None:
        """Close every connection."""
        for transport in self._transports.values():
            transport.close()


class AsyncProxiedTransport(httpx.AsyncBaseTransport):
    """The same for an asynchronous client."""

    def __init__(self, limits: httpx.Limits) -> None:
        self._limits = limits
        self._transports: dict[httpx.URL | None, httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises as httpx's transports do, and as ``proxy_of``."""
        proxy = proxy_of(request.url)
        if proxy not in self._transports:
            through = proxy and httpx.Proxy(proxy)
            transport = httpx.AsyncHTTPTransport(proxy=through, limits=self._limits)
            transport._pool._network_backend = _AsyncBounded(transport._pool._network_backend)
            self._transports[proxy] = transport
        with _socks_faults():
            return await self._transports[proxy].handle_async_request(request)

    async def aclose(self) -> None:
        """Close every connection."""
        for transport in self._transports.values():
            await transport.aclose()


class _Bounded(httpcore.NetworkBackend):
    """Ends every read in time, also those that have no limit of their own.

    httpcore greets a SOCKS proxy without one: a web server on that port waits for the rest of a
    line, and so would the kit. And limits of silence let a byte a second go on for ever.
    """

    def __init__(self, backend: httpcore.NetworkBackend, until: float) -> None:
        self._backend = backend
        self._until = until

    def connect_tcp(self, *args: Any, **options: Any) -> httpcore.NetworkStream:
        return _bounded(self._backend.connect_tcp(*args, **options), self._until)


def _bounded(stream: httpcore.NetworkStream, until: float) -> httpcore.NetworkStream:
    read, start_tls = stream.read, stream.start_tls

    def read_in_time(max_bytes: int, timeout: float | None = None) -> bytes:
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise httpcore.ReadTimeout("the answer does not end")
        return read(max_bytes, min(timeout or _GREETING_S, left_s))

    stream.read = read_in_time  # type: ignore[method-assign]
    stream.start_tls = lambda *args, **options: _bounded(  # type: ignore[method-assign]
        start_tls(*args, **options), until
    )
    return stream


class _AsyncBounded(httpcore.AsyncNetworkBackend):
    """Bounds the greeting of a SOCKS proxy; an asynchronous caller bounds the rest by asyncio."""

    def __init__(self, backend: httpcore.AsyncNetworkBackend) -> None:
        self._backend = backend

    async def connect_tcp(self, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        stream = await self._backend.connect_tcp(*args, **options)
        read = stream.read
        stream.read = lambda max_bytes, timeout=None: read(  # type: ignore[method-assign]
            max_bytes, timeout or _GREETING_S
        )
        return stream


@contextmanager
def _socks_faults() -> Iterator[None]:
    """What is no SOCKS proxy answers with something else, which httpcore lets through."""
    try:
        yield
    except socksio.ProtocolError as error:
        raise httpx.ProxyError(f"the proxy does not answer as a SOCKS proxy: {error}") from error


def _understood(variable: str, value: str) -> httpx.URL:
    scheme, separator, rest = value.rpartition("://")
    kind = _SCHEMES.get(scheme.lower()) if separator else "http"
    if kind is not None:
        try:
            url = httpx.URL(f"{kind}://{rest.removeprefix('//')}")
        except httpx.InvalidURL:
            url = httpx.URL()
        if re.fullmatch(r"[^\s\"'<>\\^`{|}%]+", url.host) and (url.port or 1) < _PORTS_END:
            return url
    raise UsageError(
        f"{variable} names no proxy that the kit can use: {_masked(value)}",
        hint=f"write it as http://HOST:PORT or socks5://HOST:PORT, without quotation marks, or "
        f"unset {variable}; NO_PROXY=HOST reaches a host without it",
    )


def _masked(value: str) -> str:
    """Without the password; and no control characters of it reach a terminal."""
    return re.sub(r"([^/:@]*):.*@", r"\1:***@", value).encode("unicode_escape").decode()


def _is_excepted(url: httpx.URL, environ: Mapping[str, str]) -> bool:
    text = environ.get("no_proxy", environ.get("NO_PROXY", ""))
    port = url.port or _PORTS.get(url.scheme)
    return any(_covers(entry, url, port) for entry in re.split(r"[,\s]+", text) if entry)


def _covers(entry: str, url: httpx.URL, port: int | None) -> bool:
    """Whether an entry of NO_PROXY means this address."""
    scheme, separator, name = entry.lower().rpartition("://")
    if separator and scheme not in ("all", url.scheme):
        return False
    found = re.fullmatch(r"\[(.+)\](?::(\d+))?|([^:]+):(\d+)", name)
    if found:  # an address in brackets, or a port
        name, wanted = found[1] or found[3], found[2] or found[4]
        if wanted and int(wanted[:6]) != port:
            return False
    host = url.host.lower().rstrip(".")
    address = _address(host)
    if address is not None:
        network = _network(name)
        return name == "*" or (network is not None and address in network)
    name = name.removeprefix("*").strip(".")
    return host == name or host.endswith(f".{name}") or not name


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
