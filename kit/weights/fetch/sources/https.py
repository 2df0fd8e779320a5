"""Plain files: at an https address, or in a folder of this machine (``file:``)."""

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote, unquote, urlsplit

from kit.errors import EnvironmentNotReady, UsageError
from kit.records import open_plain
from kit.weights.catalogue import Source, WeightSet
from kit.weights.fetch.ask import START_BYTES, Look, is_page, is_pointer, look
from kit.weights.fetch.http import Location, RefusedError
from kit.weights.fetch.sources import Offer, Offers
from kit.weights.fetch.transfer import Expected

MIRROR_TOKEN = "KIT_WEIGHTS_TOKEN"  # noqa: S105 - the name of a variable


def offers(source: Source, files: Mapping[str, str], headers: Mapping[str, str]) -> Offers:
    """``files`` below the source's base. Every one is looked at before any is read.

    Raises:
        EnvironmentNotReady: not all of them are there.
    """
    place = _Place(source.options["base"], headers, source.token_variable)
    looks = place.look_at(files)
    token = f"set {source.token_variable} to an access token, or " if source.token_variable else ""
    return _whole(looks) or _refuse(place, "", looks, f"{token}try another --source or --mirror")


def mirror_offers(base: str, weights: WeightSet, headers: Mapping[str, str]) -> Offers:
    """The set's files at a mirror, which may be laid out in three ways.

    ``BASE/SET/FILE`` as in the kit's own weights folder, ``BASE/PATH`` as at the original source,
    or ``BASE/FILE`` where the mirror holds this set alone. The first that has every file is taken.

    Raises:
        UsageError: ``base`` is neither ``https:`` nor ``file:`` (``http:`` on this machine).
        EnvironmentNotReady: the mirror has the whole set in none of these layouts.
    """
    place = _Place(_checked(base).rstrip("/"), headers, MIRROR_TOKEN)
    layouts = (
        {file: f"{weights.name}/{file}" for file in weights.files},
        dict(weights.files),
        {file: file for file in weights.files},
    )
    tried = []
    for layout in layouts:
        looks = place.look_at(layout)
        if offers := _whole(looks):
            return offers
        tried.append(looks)
    hint = (
        f"the files are looked for at {place.base}/{weights.name}/, at {place.base}/ in the layout "
        f"of the original source, and at {place.base}/ itself; a token goes into {MIRROR_TOKEN}"
    )
    return _refuse(place, f" of {weights.name}", max(tried, key=_found), hint)


@dataclass(frozen=True)
class _Place:
    """An address below which files lie."""

    base: str
    headers: Mapping[str, str]
    token_variable: str | None

    def look_at(self, files: Mapping[str, str]) -> dict[str, Offer | str]:
        """What is there, by path in the set's folder: an offer, or why there is none."""
        return {file: self._look_at(path) for file, path in files.items()}

    def _look_at(self, path: str) -> Offer | str:
        location = Location(f"{self.base}/{quote(path)}", self.headers, self.token_variable)
        local = local_path(location.url)
        try:
            found = look(location, START_BYTES) if local is None else _look_here(local)
        except RefusedError as error:
            says = "refuses access" if error.status in (401, 403) else "is not there"
            return f"{location.url} {says} (HTTP {error.status})"
        except OSError as error:
            return f"{location.url}: {error.strerror}"
        if found.html or is_page(found.start):
            return f"{location.url} is a web page"
        if is_pointer(found.start):
            return f"{location.url} is only the git LFS pointer of the file"
        if found.total_bytes == 0:
            return f"{location.url} is empty"
        return Offer(lambda: location, Expected(found.total_bytes), "observed", location.url)


def _look_here(path: Path) -> Look:
    with open_plain(path) as file:
        return Look(file.read(START_BYTES), os.fstat(file.fileno()).st_size, html=False)


def _whole(looks: Mapping[str, Offer | str]) -> dict[str, Offer] | None:
    """The offers, where there is one for every file."""
    offers = {file: found for file, found in looks.items() if isinstance(found, Offer)}
    return offers if len(offers) == len(looks) else None


def _found(looks: Mapping[str, Offer | str]) -> int:
    return sum(isinstance(found, Offer) for found in looks.values())


def _refuse(place: _Place, of: str, looks: Mapping[str, Offer | str], hint: str) -> NoReturn:
    problems = {file: found for file, found in looks.items() if isinstance(found, str)}
    raise EnvironmentNotReady(
        f"{place.base} has no {', '.join(problems)}{of}\n       "
        + "\n       ".join(problems.values()),
        hint=hint,
    )


def local_path(url: str) -> Path | None:
    """The file on this machine that is meant; None for one at a server."""
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


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
