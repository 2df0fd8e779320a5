"""Taking out of a text what it may give away: keys, tokens, names of people and machines."""

import getpass
import ipaddress
import json
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

_SECRET_NAME = re.compile(r"KEY|TOKEN(?!IZ)|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_SHORTEST_SECRET = 4
"""A shorter value would be found in the middle of words: it is looked for as a word."""
# Shorter names occur inside other words.
_SHORTEST_WORD = 3


def _ipv6(match: re.Match[str]) -> str:
    """What looks like one may be a time, or have a port or a colon after it."""
    whole = match[0]
    for address, rest in ((whole, ""), (whole[: whole.rindex(":")], whole[whole.rindex(":") :])):
        try:
            found = ipaddress.IPv6Address(address)
        except ValueError:
            continue
        return whole if found.is_loopback or found.is_unspecified else f"<address>{rest}"
    return whole


_PATTERNS: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"(Bearer|Basic) +[\w.+/=~-]+", re.IGNORECASE), r"\1 <redacted>"),
    (re.compile(r"\b(?:sk|hf|ghp|glpat)[-_][\w-]{8,}"), "<redacted>"),
    # In an address: the user, with a password or without, and all after the question mark.
    (re.compile(r"(\w+://)[^/\s\"']+@"), r"\1<redacted>@"),
    (re.compile(r"(\w+://[^\s\"'?]*\?)[^\s\"'\\]+"), r"\1<redacted>"),
    (re.compile(r"(/[^\s\"'?]*\?)[^\s\"'\\=]+=[^\s\"'\\]*"), r"\1<redacted>"),
    # What is called a secret: in quotes, as a variable, or as a longer word.
    (
        re.compile(
            r"([\w-]*(?:api[_-]?key|token|secret|password)[\w-]*[\"']?\s*[=:]\s*([\"']))"
            r"(?!<)(?:(?!\2)[^\\\n]|\\.)+",
            re.IGNORECASE,
        ),
        r"\1<redacted>",
    ),
    (
        re.compile(r"\b([A-Z0-9_]*(?:KEY|TOKEN|SECRET|PASSWORD)\s*[=:][ \t]*)(?![\"'<])[^\s,}]+"),
        r"\1<redacted>",
    ),
    (
        re.compile(
            r"([\w-]*(?:api[_-]?key|token|secret|password)[\w-]*[\"']?\s*[=:]\s*)"
            r"(?!null|None|<)([^\s\"',}]{4,})",
            re.IGNORECASE,
        ),
        r"\1<redacted>",
    ),
    (re.compile(r"(?<![\w.-])/(home|Users)/[^/\s\"':]+"), r"/\1/<user>"),
    (
        re.compile(r"(?<![\d.])(?!127\.|0\.0\.0\.0)(?:\d{1,3}\.){3}\d{1,3}(?![\d.])"),
        "<address>",
    ),
    (
        re.compile(
            r"(?:(?<![\w:])|(?<=\\[nrt]))(?=[\da-f]*:[\da-f]*:)[\da-f:]+(?![\w:])", re.IGNORECASE
        ),
        _ipv6,
    ),
)


@dataclass(frozen=True)
class Redactor:
    """Replaces what is known to be private here, then what looks like it.

    Attributes:
        secrets: what to write in place of each, wherever it stands.
        names: the same, where it is a word by itself.
    """

    secrets: Mapping[str, str]
    names: Mapping[str, str]

    def __call__(self, text: str) -> str:
        """``text`` without it."""
        for secret in sorted(self.secrets, key=len, reverse=True):
            text = text.replace(secret, self.secrets[secret])
        for name in sorted(self.names, key=len, reverse=True):
            text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", self.names[name], text)
        for pattern, instead in _PATTERNS:
            text = pattern.sub(instead, text)
        return text


def redactor(environ: Mapping[str, str] = os.environ) -> Redactor:
    """What this machine and its environment would give away."""
    secrets: dict[str, str] = {}
    names = dict.fromkeys({socket.gethostname(), socket.getfqdn()} - {"localhost", ""}, "<host>")
    for name, value in environ.items():
        if not is_secret(name) or len(value) < _SHORTEST_WORD:
            continue
        kind = secrets if len(value) >= _SHORTEST_SECRET else names
        kind.update(dict.fromkeys(_spellings(value), f"<{name}>"))
    home = str(Path(environ.get("HOME") or Path.home()))
    if len(home) > 1:
        secrets[home] = "~"
    if (user := environ.get("USER") or _user()) not in ("root", ""):
        names[user] = "<user>"
    return Redactor(secrets, names)


def is_secret(name: str) -> bool:
    """Whether a variable of that name holds something that nobody else may know."""
    return _SECRET_NAME.search(name) is not None


def _spellings(secret: str) -> Iterator[str]:
    """It, and how it is written in JSON and Python, in an address, and by Compose."""
    yield secret
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield repr(secret)[1:-1]
    yield quote(secret, safe="")
    yield secret.replace("$", "$$")
    yield secret.replace("'", "''")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
