"""Settings: defaults, overridden by KIT_* environment variables, and the folders the kit writes."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from kit import units
from kit.errors import UsageError

# The promise: bf16 at 4096 tokens is planned at 28.7 GiB and fits a card of 32 GB.
DEFAULT_MAX_VRAM_BYTES = 30 * units.GIB
DEFAULT_MAX_WAITING = 512
"""What the largest single request asks for: 64 prompts with 8 answers each."""
DEFAULT_KEEP_ALIVE_SECONDS = 75
"""nginx's own. Pools of clients keep idle connections for 15 to 90 s, and a request that meets the
end of one fails."""


VARIABLES = frozenset(
    f"KIT_{name}"
    for name in [
        "ALLOW_HOSTS",
        "ALLOW_ORIGINS",
        "API_KEY",
        "API_KEY_FILE",
        "APT_MIRROR",
        "BASE_IMAGE",
        "BUILD_NETWORK",
        "CA_BUNDLE",
        "CONTEXT",
        "DATA_DIR",
        "DEVICE",
        "ENGINE",
        "GOLDEN_DIR",
        "GOLDEN_MODELS_DIR",
        "GPU",
        "GRAFANA_IMAGE",
        "GRAFANA_PORT",
        "HOST",
        "IMAGE",
        "KEEP_ALIVE",
        "INSTANCE",
        "MAX_RAM",
        "MAX_SEQUENCES",
        "MAX_VRAM",
        "MAX_WAITING",
        "MEMORY_LIMIT",
        "MODEL",
        "MODEL_DIR",
        "MODEL_NAME",
        "NETWORK",
        "ON_BREACH",
        "ON_FAILURE",
        "OWNER",
        "PORT",
        "PROMETHEUS_IMAGE",
        "PUBLISHED_HOST",
        "REQUIRE",
        "RESTART",
        "RUNTIME",
        "STATE_DIR",
        "UNKNOWN_PARAMETERS",
        "UPSTREAM_DIR",
        "UPSTREAM_LOCK",
        "UPSTREAM_MIRROR",
        "UPSTREAM_TREE",
        "USER",
        "VERIFY",
        "VERSION",
        "WEIGHTS_CATALOGUE",
        "WEIGHTS_MIRROR",
        "WEIGHTS_TOKEN",
    ]
)
"""Every variable that the kit, its containers or its tests read."""
_TESTS = "KIT_TEST_"


def misspelt(environ: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """Variables that look like settings and are none, with the one that is nearest."""
    strange = [
        name
        for name in sorted(environ)
        if name.startswith("KIT_") and name not in VARIABLES and not name.startswith(_TESTS)
    ]
    return [(name, next(iter(get_close_matches(name, VARIABLES, 1)), None)) for name in strange]


@dataclass(frozen=True)
class Settings:
    """What the environment says. The CLI's flags default to these values.

    Attributes:
        data_dir: converted weights (``KIT_DATA_DIR``, else ``$XDG_DATA_HOME/spark-kit``).
        state_dir: run state and logs (``KIT_STATE_DIR``, else ``$XDG_STATE_HOME/spark-kit``); of a
            service with a name of its own (``KIT_INSTANCE``) a folder in it.
        host: address the server binds (``KIT_HOST``).
        port: port the server binds (``KIT_PORT``).
        max_vram_bytes: budget for the VRAM peak (``KIT_MAX_VRAM``, such as ``30GiB``).
        max_ram_bytes: budget for the host RAM peak (``KIT_MAX_RAM``); None takes it from the plan.
        weights_mirror: fetch weights from this address instead (``KIT_WEIGHTS_MIRROR``).
        weights_catalogue: a catalogue of one's own beside the kit's (``KIT_WEIGHTS_CATALOGUE``).
        upstream_tree: where the upstream repo lies, pristine and rewritten (``KIT_UPSTREAM_TREE``).
        upstream_mirror: fetch it from this address instead (``KIT_UPSTREAM_MIRROR``).
        upstream_lock: says what it must be, instead of the kit's own (``KIT_UPSTREAM_LOCK``).
        api_key: when set, ``/v1`` asks for it as a bearer token (``KIT_API_KEY``, or what the file
            ``KIT_API_KEY_FILE`` holds).
        on_breach: what a server does while it is over its budget (``KIT_ON_BREACH``).
        on_failure: what a server does that cannot start and would not at the next try, ``exit`` or
            ``stay`` (``KIT_ON_FAILURE``).
        max_waiting: answers that may wait for others to end (``KIT_MAX_WAITING``).
        allow_origins: of web pages that may use the server (``KIT_ALLOW_ORIGINS``).
        published_host: in a container, where compose.yaml publishes its port
            (``KIT_PUBLISHED_HOST``).
        allow_hosts: names that the server is asked by, beside its own (``KIT_ALLOW_HOSTS``).
        keep_alive_seconds: that an idle connection stays open (``KIT_KEEP_ALIVE``).
        unknown_parameters: refuse or ignore, in requests (``KIT_UNKNOWN_PARAMETERS``).
    """

    data_dir: Path
    state_dir: Path
    host: str = "127.0.0.1"
    port: int = 8000
    max_vram_bytes: int = DEFAULT_MAX_VRAM_BYTES
    max_ram_bytes: int | None = None
    weights_mirror: str | None = None
    weights_catalogue: Path | None = None
    upstream_tree: Path | None = None
    upstream_mirror: str | None = None
    upstream_lock: Path | None = None
    api_key: str | None = None
    on_breach: str = "unready"
    on_failure: str = "exit"
    max_waiting: int = DEFAULT_MAX_WAITING
    allow_origins: tuple[str, ...] = ()
    published_host: str | None = None
    allow_hosts: tuple[str, ...] = ()
    keep_alive_seconds: int = DEFAULT_KEEP_ALIVE_SECONDS
    unknown_parameters: str = "refuse"

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """Read the settings.

        Raises:
            UsageError: a variable cannot be understood; the message names it.
        """
        home = Path(environ.get("HOME") or Path.home())

        def folder(variable: str, xdg_variable: str, default: str) -> Path:
            if chosen := environ.get(variable):
                return Path(chosen).expanduser().absolute()
            return Path(environ.get(xdg_variable) or home / default) / "spark-kit"

        def size(variable: str) -> int | None:
            text = environ.get(variable)
            return units.parse_size(text) if text else None

        state_dir = folder("KIT_STATE_DIR", "XDG_STATE_HOME", ".local/state")
        if instance := instance_name(environ):
            state_dir = state_dir / "instances" / instance
        return cls(
            data_dir=folder("KIT_DATA_DIR", "XDG_DATA_HOME", ".local/share"),
            state_dir=state_dir,
            host=environ.get("KIT_HOST") or cls.host,
            port=_port(environ.get("KIT_PORT") or str(cls.port)),
            max_vram_bytes=size("KIT_MAX_VRAM") or DEFAULT_MAX_VRAM_BYTES,
            max_ram_bytes=size("KIT_MAX_RAM"),
            weights_mirror=environ.get("KIT_WEIGHTS_MIRROR") or None,
            weights_catalogue=_path(environ.get("KIT_WEIGHTS_CATALOGUE")),
            upstream_tree=_path(environ.get("KIT_UPSTREAM_TREE")),
            upstream_mirror=environ.get("KIT_UPSTREAM_MIRROR") or None,
            upstream_lock=_path(environ.get("KIT_UPSTREAM_LOCK")),
            api_key=_api_key(environ),
            on_breach=environ.get("KIT_ON_BREACH") or cls.on_breach,
            on_failure=_on_failure(environ.get("KIT_ON_FAILURE") or cls.on_failure),
            max_waiting=_count("KIT_MAX_WAITING", environ) or cls.max_waiting,
            allow_origins=_origins(environ.get("KIT_ALLOW_ORIGINS") or ""),
            published_host=environ.get("KIT_PUBLISHED_HOST") or None,
            allow_hosts=_hosts(environ.get("KIT_ALLOW_HOSTS") or ""),
            keep_alive_seconds=_count("KIT_KEEP_ALIVE", environ) or cls.keep_alive_seconds,
            unknown_parameters=environ.get("KIT_UNKNOWN_PARAMETERS") or cls.unknown_parameters,
        )

    @property
    def upstream_dir(self) -> Path:
        """The folder of the upstream repo; in it are ``pristine`` and ``rewritten``."""
        return self.upstream_tree or self.data_dir / "upstream"


def instance_name(environ: Mapping[str, str]) -> str | None:
    """What tells this service from others of the same user (``KIT_INSTANCE``); None: the only one.

    Raises:
        UsageError: it can be no part of a container's name.
    """
    name = environ.get("KIT_INSTANCE") or None
    if name is not None and not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,30}", name):
        raise UsageError(
            f"an instance cannot be called {name!r}",
            hint="lower-case letters, digits, - and _, such as --instance b",
        )
    return name


def api_key_file(environ: Mapping[str, str]) -> Path | None:
    """The file that the API key is read from; None: there is none."""
    return _path(environ.get("KIT_API_KEY_FILE"))


def _api_key(environ: Mapping[str, str]) -> str | None:
    given, file = environ.get("KIT_API_KEY") or None, api_key_file(environ)
    if file is None:
        return given
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(
            f"KIT_API_KEY_FILE cannot be read: {file}: {reason}", hint="put the key alone into it"
        ) from error
    if "\n" in text or (given and text and given != text):
        what = "has several lines" if "\n" in text else "and KIT_API_KEY name different keys"
        raise UsageError(f"KIT_API_KEY_FILE {what}", hint="set one of both, to one key")
    return given or text or None


def _on_failure(text: str) -> str:
    if text in ("exit", "stay"):
        return text
    raise UsageError(
        f"KIT_ON_FAILURE is {text!r}", hint="set it to exit, or to stay, which then only says why"
    )


def _path(text: str | None) -> Path | None:
    return Path(text).expanduser().absolute() if text else None


def _count(variable: str, environ: Mapping[str, str]) -> int | None:
    text = environ.get(variable)
    if not text or (text.isdecimal() and text.isascii() and 0 < int(text) < 10**6):
        return int(text) if text else None
    raise UsageError(
        f"{variable} is not a number from 1 to 999999: {text!r}", hint=f"{variable}=100"
    )


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(origin.rstrip("/").lower() for origin in _list(text))
    for origin in origins:
        if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#\s]+", origin):
            raise UsageError(
                f"KIT_ALLOW_ORIGINS has {origin!r}, which is no origin of a web page",
                hint="KIT_ALLOW_ORIGINS=http://localhost:3000,https://chat.example.org; * is any",
            )
    return origins


def _hosts(text: str) -> tuple[str, ...]:
    hosts = tuple(host.lower() for host in _list(text))
    for host in hosts:
        if host != "*" and not re.fullmatch(r"(\*\.)?[a-z0-9_.-]+|\[?[0-9a-f:.]+\]?", host):
            raise UsageError(
                f"KIT_ALLOW_HOSTS has {host!r}, which is no host's name",
                hint="KIT_ALLOW_HOSTS=chat.example.org,*.example.com (no port); * is any",
            )
    return hosts


def authority(host: str, port: int) -> str:
    """Host and port as URLs have them: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _port(text: str) -> int:
    if text.isdecimal() and 0 < int(text) < 65536:
        return int(text)
    raise UsageError(f"KIT_PORT is not a port: {text!r}", hint="set it to a number such as 8000")


def bundled(name: str) -> Path:
    """Path of a file or folder that comes with the kit: ``demo`` or ``kit.lock``.

    In a checkout it lies at the repository's root, in an installed wheel under ``kit/bundled``.
    """
    package = Path(__file__).parent
    packaged = package / "bundled" / name
    return packaged if packaged.exists() else package.parent / name
