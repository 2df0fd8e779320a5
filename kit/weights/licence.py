"""Licences: shown, accepted and kept on record before the first byte of weights is moved.

The record, ``licences.json`` in the data folder, says when and how a licence was accepted, and the
sha256 of the text as it stood at its source then; the text itself is kept beside it.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from kit.errors import EnvironmentNotReady
from kit.files import exclusive, write_durably
from kit.records import read_object
from kit.weights.catalogue import Licence
from kit.weights.fetch.ask import read_start
from kit.weights.fetch.http import Location, RefusedError

RECORD_NAME = "licences.json"
TEXT_FOLDER = "licences"
_MOST_BYTES = 1 << 20
How = Literal["option", "terminal"]


@dataclass(frozen=True)
class Terms:
    """What is put before the user.

    Attributes:
        text_path: where the text was put to read; None: its source was out of reach, so that only
            summary and address can be shown.
        earlier: the acceptance of another text, if there is one.
    """

    licence: Licence
    text_path: Path | None
    earlier: "Acceptance | None"


@dataclass(frozen=True)
class Acceptance:
    """That a user accepted a licence.

    Attributes:
        date: ISO date.
        how: by ``--accept-license``, or asked on a terminal.
        shown: the whole text, or the summary with the text's address.
        text_sha256: of the text; None where its source was out of reach.
    """

    licence: str
    date: str
    how: How
    shown: Literal["text", "summary"]
    url: str
    text_sha256: str | None


def require_acceptance(
    licence: Licence, data_dir: Path, ask: Callable[[Terms], How], *, online: bool = True
) -> Acceptance:
    """The acceptance on record, else a new one, for which ``ask`` shows the terms.

    Accepted once, a licence is asked about again only when its text has changed since.

    Args:
        ask: returns how it was accepted, or raises what ends the command.
        online: whether the text may be read from its source.
    """
    earlier = read_acceptances(data_dir).get(licence.name)
    text = _read_text(licence) if online else None
    digest = hashlib.sha256(text).hexdigest() if text is not None else None
    if earlier is not None and (digest is None or earlier.text_sha256 in (None, digest)):
        return earlier
    path = _keep_text(licence, data_dir, text) if text is not None else None
    accepted = Acceptance(
        licence=licence.name,
        date=datetime.now(UTC).date().isoformat(),
        how=ask(Terms(licence, path, earlier)),
        shown="text" if path is not None else "summary",
        url=licence.url,
        text_sha256=digest,
    )
    _record(data_dir, accepted)
    return accepted


def read_acceptances(data_dir: Path) -> dict[str, Acceptance]:
    """The acceptances on record, by licence. A damaged record counts as none."""
    try:
        content = read_object(data_dir / RECORD_NAME)
        return {name: Acceptance(licence=name, **entry) for name, entry in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def text_path(licence: Licence, data_dir: Path) -> Path:
    """Where the text is kept once it was read from its source."""
    return data_dir / TEXT_FOLDER / f"{licence.name}.md"


def _read_text(licence: Licence) -> bytes | None:
    try:
        text = read_start(Location(licence.text_url), _MOST_BYTES)
    except (EnvironmentNotReady, RefusedError):
        return None
    page = text.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html"))
    return None if page or not text.strip() else text


def _keep_text(licence: Licence, data_dir: Path, text: bytes) -> Path:
    path = text_path(licence, data_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, text)
    return path


def _record(data_dir: Path, accepted: Acceptance) -> None:
    path = data_dir / RECORD_NAME
    with exclusive(path, "writing", 60.0):
        known = read_acceptances(data_dir) | {accepted.licence: accepted}
        content = {name: asdict(entry) for name, entry in known.items()}
        for entry in content.values():
            del entry["licence"]
        text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        write_durably(path, text.encode())
