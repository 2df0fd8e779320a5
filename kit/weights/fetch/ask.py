"""Small requests to the servers that hold weights: all of an answer, or the beginning of a file."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from kit.errors import EnvironmentNotReady
from kit.records import parse_json
from kit.units import MIB
from kit.weights.fetch.http import (
    AGENT,
    CONNECT_S,
    CONTENT_RANGE,
    NO_SUCH_RANGE,
    InterruptedTransferError,
    Location,
    faults,
    is_html,
    keep_tls,
    require_success,
    size_of,
)
from kit.weights.fetch.proxy import ProxiedTransport

START_BYTES = 512
"""That many bytes at the beginning are enough to tell."""

_PAGE = (b"<!doctype html", b"<html")
_POINTER = b"version https://git-lfs.github.com/spec/"


def is_page(start: bytes) -> bool:
    """Whether a file that begins with ``start`` is a web page."""
    return start.lstrip()[:14].lower().startswith(_PAGE)


def is_pointer(start: bytes) -> bool:
    """Whether it is the pointer that git keeps in place of a file in LFS."""
    return start.startswith(_POINTER)


PAUSES_S = (1.0, 2.0, 4.0)
"""Between the tries. Downloads have their own, see ``kit.weights.fetch.download``."""
ANSWER_BYTES = 4 * MIB
"""The largest answer that is looked at: ten thousand times what the servers' APIs send."""
TOTAL_S = 60.0
"""For one answer as a whole. The limits of silence alone let a byte a second go on for ever."""


@dataclass(frozen=True)
class Look:
    """The beginning of a file at a server, and its size if that is told.

    Attributes:
        html: whether it calls itself a web page.
    """

    start: bytes
    total_bytes: int | None
    html: bool


@dataclass(frozen=True)
class _Answer:
    """What a small request is answered with."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes


def request_json(method: str, location: Location, **options: Any) -> Any:
    """The JSON that a small request is answered with; ``options`` are httpx's.

    Raises:
        RefusedError: HTTP 401, 403, 404 or 410.
        EnvironmentNotReady: the server is out of reach or answers with something else.
    """
    answer = _request(method, location, options)
    try:
        return parse_json(answer.content)
    except ValueError as error:
        raise EnvironmentNotReady(
            f"{location.host} answers with something that is not JSON",
            hint="a proxy or a login page may be in between; try another --source or --mirror",
        ) from error


def read_start(location: Location, limit_bytes: int) -> bytes:
    """The first bytes of a file, all of it if it is small. Raises as ``request_json``."""
    return _request("GET", location, {}, limit_bytes).content[:limit_bytes]


def look(location: Location, limit_bytes: int) -> Look:
    """What is at an address, without reading more than its start. Raises as ``request_json``."""
    asked = {"headers": {"Range": f"bytes=0-{limit_bytes - 1}"}}
    answer = _request("GET", location, asked, limit_bytes)
    if answer.status_code == httpx.codes.OK:
        total = answer.headers.get("Content-Length")
    else:
        found = CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        total = found[3] if found else None
    start = b"" if answer.status_code == NO_SUCH_RANGE else answer.content[:limit_bytes]
    return Look(start, size_of(total), is_html(answer.headers))


def _request(
    method: str, location: Location, options: Mapping[str, Any], limit_bytes: int | None = None
) -> _Answer:
    for pause_s in (*PAUSES_S, None):
        try:
            return _try_request(method, location, options, limit_bytes)
        except InterruptedTransferError as error:
            if pause_s is None:
                raise EnvironmentNotReady(
                    f"cannot read from {location.host}: {error}",
                    hint="check the network and the proxy settings (HTTPS_PROXY, NO_PROXY), "
                    "or try another --source or --mirror",
                ) from error
            time.sleep(max(pause_s, min(error.pause_s or 0.0, 30.0)))
    raise AssertionError("unreachable")


def _try_request(
    method: str, location: Location, options: Mapping[str, Any], limit_bytes: int | None
) -> _Answer:
    headers = {**location.headers, **options.get("headers", {})}
    rest = {key: value for key, value in options.items() if key != "headers"}
    with (
        faults(location, CONNECT_S),
        httpx.Client(
            transport=ProxiedTransport(TOTAL_S),
            follow_redirects=True,
            headers=AGENT,
            timeout=CONNECT_S,
            event_hooks={"response": [keep_tls]},
        ) as client,
        client.stream(method, location.url, headers=headers, **rest) as response,
    ):
        if response.status_code != NO_SUCH_RANGE:  # so an empty file answers
            require_success(location, response)
        content = _content(location, response, limit_bytes)
        return _Answer(response.status_code, response.headers, content)


def _content(location: Location, response: httpx.Response, limit_bytes: int | None) -> bytes:
    """The body, or its first ``limit_bytes``; all of it has to be of sane size."""
    content = bytearray()
    for chunk in response.iter_bytes():
        content += chunk
        if limit_bytes is not None and len(content) >= limit_bytes:
            break
        if len(content) > ANSWER_BYTES:
            raise EnvironmentNotReady(
                f"{location.host} answers with more than {ANSWER_BYTES // MIB} MiB, "
                "where a few lines are expected",
                hint="a proxy or a login page may be in between; try another --source or --mirror",
            )
    return bytes(content)
