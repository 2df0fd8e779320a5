"""Taking out of a text what it may give away: keys, tokens, names of people and machines."""

import getpass
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_SHORTEST_SECRET = 4
"""A shorter value would be found in the middle of words."""
_PATTERNS = (
    (re.compile(r"(Bearer|Basic) +[\w.+/=~-]+", re.IGNORECASE), r"\1 <redacted>"),
    (re.compile(r"\b(?:sk|hf|ghp|glpat)[-_][\w-]{8,}"), "<redacted>"),
    (re.compile(r"(\w+://)[^/\s:@]+:[^/\s@]+@"), r"\1<redacted>@"),
    (
        re.compile(
            r"([\w-]*(?:api[_-]?key|token|secret|password)[\w-]*[\"']?\s*[=:]\s*[\"']?)"
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
    secrets = {
        value: f"<{name}>"
        for name, value in environ.items()
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET
    }
    home = str(Path(environ.get("HOME") or Path.home()))
    if len(home) > 1:
        secrets[home] = "~"
    names = dict.fromkeys({socket.gethostname(), socket.getfqdn()} - {"localhost", ""}, "<host>")
    if (user := environ.get("USER") or _user()) not in ("root", ""):
        names[user] = "<user>"
    return Redactor(secrets, names)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
