"""Plain files: at an https address, or in a folder of this machine (``file:``)."""

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from kit.errors import EnvironmentNotReady, UsageError
from kit.weights.catalogue import Source, WeightSet
from kit.weights.http import Location, RefusedError, read_start
from kit.weights.sources import Offer, Offers
from kit.weights.transfer import Expected

MIRROR_TOKEN = "KIT_WEIGHTS_TOKEN"  # noqa: S105 - the name of a variable


def offers(source: Source, files: Mapping[str, str], headers: Mapping[str, str]) -> Offers:
    """``files`` below the source's base. Nothing is asked before they are read."""
    base = source.options["base"]
    return {
        file: _offer(base, path, headers, source.token_variable) for file, path in files.items()
    }


def mirror_offers(base: str, weights: WeightSet, headers: Mapping[str, str]) -> Offers:
    """The set's files at a mirror, which may be laid out in three ways.

    ``BASE/SET/FILE`` as in the kit's own weights folder, ``BASE/PATH`` as at the original source,
    or ``BASE/FILE`` where the mirror holds this set alone. The first file decides.

    Raises:
        UsageError: ``base`` is neither ``https:`` nor ``file:`` (``http:`` on this machine).
        EnvironmentNotReady: the mirror has the set in none of these layouts.
    """
    base = _checked(base).rstrip("/")
    layouts = (
        {file: f"{weights.name}/{file}" for file in weights.files},
        dict(weights.files),
        {file: file for file in weights.files},
    )
    for layout in layouts:
        found = {file: _offer(base, path, headers, MIRROR_TOKEN) for file, path in layout.items()}
        if _exists(next(iter(found.values())).locate()):
            return found
    raise EnvironmentNotReady(
        f"{base} has no {next(iter(weights.files))} of {weights.name}",
        hint=f"the files are looked for at {base}/{weights.name}/, at {base}/ in the layout of "
        f"the original source, and at {base}/ itself; a token goes into {MIRROR_TOKEN}",
    )


def local_path(url: str) -> Path | None:
    """The file on this machine that is meant; None for one at a server."""
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _offer(base: str, path: str, headers: Mapping[str, str], token: str | None) -> Offer:
    location = Location(f"{base}/{quote(path)}", headers, token)
    local = local_path(location.url)
    size_bytes = local.stat().st_size if local is not None and local.is_file() else None
    return Offer(lambda: location, Expected(size_bytes), "observed", location.url)


def _exists(location: Location) -> bool:
    local = local_path(location.url)
    if local is not None:
        return local.is_file()
    try:
        start = read_start(location, 64)
    except RefusedError as error:
        if error.status in (401, 403):
            raise EnvironmentNotReady(
                f"{location.host} refuses access (HTTP {error.status})",
                hint=f"set {MIRROR_TOKEN} to an access token",
            ) from error
        return False
    return not start.lstrip().lower().startswith((b"<!doctype html", b"<html"))


def _checked(base: str) -> str:
    parts = urlsplit(base)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        return base
    if parts.hostname and (parts.scheme == "https" or _is_here(parts.scheme, parts.hostname)):
        return base
    raise UsageError(
        f"a mirror is named by https://HOST/PATH or file:///FOLDER, not {base!r}",
        hint="plain http: gives no protection against changed data, "
        "so it is taken only on this machine",
    )


def _is_here(scheme: str, host: str) -> bool:
    if scheme != "http":
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
