"""A git repository whose large files lie in git LFS.

The repository holds a pointer in place of each file, with its sha256 and size; the batch API says
where the content can be read. Formats: https://github.com/git-lfs/git-lfs, docs/spec.md and
docs/api/batch.md.
"""

import ipaddress
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from kit.errors import EnvironmentNotReady, IntegrityError, printable
from kit.weights.catalogue import Source
from kit.weights.fetch.ask import read_start, request_json
from kit.weights.fetch.http import Location, RefusedError, refused
from kit.weights.fetch.sources import Offer, Offers
from kit.weights.fetch.transfer import Expected

_TIMEOUT_S = 120.0


POINTER_BYTES = 1024
"""A pointer is shorter than this (docs/spec.md)."""

_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-[^\n]*\n)*"
    rb"oid sha256:(?P<oid>[0-9a-f]{64})\nsize (?P<size>\d{1,18})\n?"
)
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # a token (RFC 9110, 5.6.2)
_MEDIA_TYPE = "application/vnd.git-lfs+json"


@dataclass(frozen=True)
class Pointer:
    """What stands in the repository for a file."""

    sha256: str
    size_bytes: int


def parse_pointer(content: bytes) -> Pointer | None:
    """The pointer that ``content`` is; None if it is something else."""
    found = _POINTER.fullmatch(content)
    return Pointer(found["oid"].decode(), int(found["size"])) if found else None


def offers(source: Source, files: Mapping[str, str], headers: Mapping[str, str]) -> Offers:
    """Look up the pointers of ``files`` (path in the repository, by path in the set's folder).

    A file that lies in the repository itself is offered as it is, without a published checksum.

    Raises:
        EnvironmentNotReady: the repository is out of reach, or has no such file.
    """
    starts = {path: _raw_start(source, path, headers) for path in set(files.values())}
    pointers = {
        path: parse_pointer(start) for path, start in starts.items() if isinstance(start, bytes)
    }
    hidden = [path for path in starts if pointers.get(path) is None]
    if hidden:  # some servers answer with the content in the pointer's place, or not at all
        repository, revision = source.options["repository"], source.options["revision"]
        for path, blob in read_blobs(repository, revision, hidden, POINTER_BYTES).items():
            pointers[path] = parse_pointer(blob)
    result = {}
    for file, path in files.items():
        pointer, start = pointers.get(path), starts[path]
        if pointer is not None:
            result[file] = _pointed(source, path, pointer, headers)
        elif isinstance(start, RefusedError):
            raise refused(start, path) from start
        else:
            result[file] = _plain(source, path, headers)
    return result


def _raw_start(source: Source, path: str, headers: Mapping[str, str]) -> bytes | RefusedError:
    try:
        return read_start(_raw(source, path, headers), POINTER_BYTES)
    except RefusedError as error:
        return error


def _raw(source: Source, path: str, headers: Mapping[str, str]) -> Location:
    return Location(f"{source.options['raw']}/{path}", headers, source.token_variable)


def _plain(source: Source, path: str, headers: Mapping[str, str]) -> Offer:
    location = _raw(source, path, headers)
    return Offer(lambda: location, Expected(), "observed", location.url)


def _pointed(source: Source, path: str, pointer: Pointer, headers: Mapping[str, str]) -> Offer:
    return Offer(
        partial(_locate, source, path, pointer, headers),
        Expected(pointer.size_bytes, pointer.sha256),
        "pointer",
        f"{source.options['raw']}/{path}",
    )


def _locate(source: Source, path: str, pointer: Pointer, headers: Mapping[str, str]) -> Location:
    """Ask the batch API where the content is. The address expires, so this is asked again."""
    api = Location(
        f"{source.options['lfs']}/objects/batch",
        {**headers, "Accept": _MEDIA_TYPE, "Content-Type": _MEDIA_TYPE},
        source.token_variable,
    )
    question = {
        "operation": "download",
        "transfers": ["basic"],
        "objects": [{"oid": pointer.sha256, "size": pointer.size_bytes}],
        "hash_algo": "sha256",
    }
    try:
        answer = request_json("POST", api, json=question)
    except RefusedError as error:
        raise refused(error, path) from error
    try:
        return _download_action(answer, pointer, path, api)
    except (KeyError, TypeError, IndexError, ValueError, AttributeError, httpx.InvalidURL) as error:
        raise EnvironmentNotReady(
            f"{api.host} does not answer as a git LFS server: {printable(repr(error))}",
            hint="try another --source or --mirror",
        ) from error


def _download_action(answer: Any, pointer: Pointer, path: str, api: Location) -> Location:
    entry = {found["oid"]: found for found in answer["objects"]}[pointer.sha256]
    if "error" in entry:
        says = f"{entry['error'].get('message')} ({entry['error'].get('code')})"
        raise EnvironmentNotReady(
            f"{api.host} does not give {path}: {printable(says)}",
            hint="try another --source or --mirror",
        )
    if entry.get("size", pointer.size_bytes) != pointer.size_bytes:
        raise IntegrityError(
            f"{api.host} has {printable(str(entry['size']))} bytes for {path}, "
            f"its pointer says {pointer.size_bytes}",
            hint="the repository is damaged; try another --source or --mirror",
        )
    action = entry["actions"]["download"]
    headers = {str(name): str(value) for name, value in action.get("header", {}).items()}
    href = str(action["href"])
    _require_address(href, api)
    for name, value in headers.items():
        if not (_HEADER.fullmatch(name) and value.isascii() and value.isprintable()):
            raise ValueError(f"the header {name}")
    return Location(href, headers, api.token_variable)


def _require_address(href: str, api: Location) -> None:
    """A server may send us to any other one, but not to what only this machine can reach.

    Addresses that are only local (link-local: a cloud's metadata; loopback; private networks) are
    taken where the LFS server itself has such a one.

    Raises:
        ValueError: it is no address to read from.
    """
    url, asked = httpx.URL(href), httpx.URL(api.url)
    if url.scheme not in ("https", asked.scheme) or not url.host:
        raise ValueError(f"the address {url.scheme}://{url.host}")
    if _is_local(url.host) and not (_is_local(asked.host) and not _is_link_local(url.host)):
        raise ValueError(f"the address {url.host}, which is not on the internet")


def _is_local(host: str) -> bool:
    address = _address(host)
    return host.rstrip(".") == "localhost" if address is None else not address.is_global


def _is_link_local(host: str) -> bool:
    address = _address(host)
    return address is not None and address.is_link_local


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def read_blobs(
    repository: str, revision: str, paths: Iterable[str], limit_bytes: int
) -> dict[str, bytes]:
    """The first bytes of files at a revision. What cannot be had is left out.

    Nothing of the repository is checked out and no program of its configuration runs.
    """
    git = shutil.which("git")
    if git is None:
        return {}
    # GIT_TERMINAL_PROMPT: git must fail where it would ask for a password.
    environ = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
    with tempfile.TemporaryDirectory() as folder:
        clone = [git, "clone", "--quiet", "--bare", "--depth", "1", "--filter=blob:none"]
        where = ["--branch", revision, "--", repository, folder]
        if _run([*clone, *where], environ) is None:
            return {}
        show = [git, "--git-dir", folder, "cat-file", "blob"]
        found = {path: _run([*show, f"HEAD:{path}"], environ) for path in paths}
    return {path: content[:limit_bytes] for path, content in found.items() if content is not None}


def _run(command: list[str], environ: dict[str, str]) -> bytes | None:
    try:
        done = subprocess.run(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
            cwd=Path("/"),
        )
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None
