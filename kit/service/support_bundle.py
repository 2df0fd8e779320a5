"""What helps to find out from afar what is wrong: one archive, with nothing private in it."""

import getpass
import io
import ipaddress
import json
import os
import platform
import re
import socket
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

import kit
from kit.containers.compose import find_compose
from kit.containers.docker import Engine
from kit.errors import KitError
from kit.files import writing
from kit.memory.probes import nvml
from kit.memory.unavailable import Unavailable
from kit.runtime import state
from kit.runtime.protocol import Runtime, RuntimeName, current
from kit.service.bring_up import BUILD_LOG
from kit.service.recall import FILE_NAME, Proven, recall
from kit.service.status import details, status
from kit.settings import Settings, bundled

# The last start and some hours of requests, in an archive that can be mailed.
_LOG_LINES = 2000
Part = Callable[[], str]
"""Makes the text of one file."""


def write_bundle(
    path: Path, parts: Mapping[str, Part], environ: Mapping[str, str] = os.environ
) -> dict[str, int]:
    """Write ``parts`` as a .tar.gz that only its owner may read; returns their sizes in bytes.

    A part that cannot be had is replaced by the reason.

    Raises:
        EnvironmentNotReady: it cannot be written.
    """
    redact = redactor(environ)
    texts = {name: redact(_text(part)) for name, part in parts.items()}
    texts = {"contents.txt": _contents(texts), **texts}
    folder = path.name.removesuffix(".gz").removesuffix(".tar")
    with writing(path, hint="choose another --output"):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            with tarfile.open(fileobj=file, mode="w:gz") as archive:
                for name, text in texts.items():
                    _add(archive, f"{folder}/{name}", text.encode("utf-8", "replace"))
    return {name: len(text.encode("utf-8", "replace")) for name, text in texts.items()}


def parts_of(
    settings: Settings, runtimes: Mapping[RuntimeName, Runtime], environ: Mapping[str, str]
) -> dict[str, Part]:
    """What there is to tell about the service and what it runs on."""
    found = state.read(settings.state_dir / state.FILE_NAME)
    runtime = runtimes[found.runtime if found else "local"]
    parts: dict[str, Part] = {
        "versions.json": lambda: _json(_versions(environ)),
        "settings.json": lambda: _json(_settings(environ)),
        "status.json": lambda: _json(_status(settings, runtimes, runtime)),
        "log.txt": lambda: "\n".join(runtime.logs(_LOG_LINES)),
        "kit.lock": lambda: bundled("kit.lock").read_text(encoding="utf-8"),
    }
    for name in (state.FILE_NAME, FILE_NAME, BUILD_LOG):
        if (settings.state_dir / name).exists():
            parts[name] = _reader(settings.state_dir / name)
    if found is not None:
        proven = Proven(found.runtime, found.spec)
        parts["plan.json"] = lambda: _json(asdict(recall(proven, settings, environ).plan))
    if found is not None and found.runtime == "container":
        parts["compose.yaml"] = lambda: runtime.configuration() or ""
    return parts


def _versions(environ: Mapping[str, str]) -> dict[str, object]:
    driver = nvml.probe()
    return {
        "kit": kit.__version__,
        "python": sys.version,
        "platform": platform.platform(),
        "docker engine": _attempt(Engine(environ).version),
        "compose": _attempt(lambda: asdict(find_compose(environ))),
        "nvidia": str(driver) if isinstance(driver, Unavailable) else asdict(driver),
    }


def _settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Everything of the environment that the kit or its libraries go by; of secrets, the names."""
    ours = ("KIT_", "COMPOSE_", "DOCKER_", "CUDA_", "NVIDIA_", "XDG_", "HF_", "PIP_")
    return {
        name: f"<{name}>" if is_secret(name) else value
        for name, value in sorted(environ.items())
        if name.startswith(ours)
    }


def _status(
    settings: Settings, runtimes: Mapping[RuntimeName, Runtime], runtime: Runtime
) -> dict[str, object]:
    found = status(runtime, settings.port)
    service = current(runtimes)
    more = details(service) if service is not None else None
    return {
        "state": found.state,
        "detail": found.detail,
        "details": _plain(asdict(more)) if more is not None else None,
    }


def _attempt(question: Callable[[], object]) -> object:
    try:
        return question()
    except KitError as error:
        return f"{error.message} ({error.hint})"


def _plain(record: object) -> object:
    """JSON cannot hold Unavailable; asdict has made dicts of it."""
    return json.loads(json.dumps(record, default=str))


def _reader(path: Path) -> Part:
    return lambda: path.read_text(encoding="utf-8", errors="replace")


def _text(part: Part) -> str:
    try:
        return part()
    except KitError as error:
        return f"could not be had: {error.message} ({error.hint})\n"
    except OSError as error:
        return f"could not be had: {error}\n"


def _contents(texts: Mapping[str, str]) -> str:
    lines = [f"spark-kit support bundle, {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}"]
    lines.append("Keys, tokens, addresses, names of users and machines were taken out.\n")
    lines += [f"{len(text.encode('utf-8', 'replace')):>9}  {name}" for name, text in texts.items()]
    return "\n".join(lines) + "\n"


def _json(record: object) -> str:
    return json.dumps(record, indent=2, ensure_ascii=False, default=str) + "\n"


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
    archive.addfile(entry, io.BytesIO(content))


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
