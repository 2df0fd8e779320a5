"""Whether the places that the kit downloads from answer: weights, packages, images.

Asked as the downloads themselves would ask: through the environment's proxies (HTTPS_PROXY,
NO_PROXY) and certificates (SSL_CERT_FILE), and through pip with all of its configuration.
"""

import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import kit
from kit.doctor.facts import Clock, Docker, Facts, Reply
from kit.doctor.gather.commands import ran
from kit.doctor.request import Request
from kit.errors import KitError
from kit.memory.unavailable import Unavailable
from kit.service.missing_weights import WEIGHTS
from kit.weights.catalogue import Source, read_catalogue
from kit.weights.layers import read_layers

# Whoever needs longer to accept a connection will not deliver 50 GB either.
SECONDS = 3.0
_OFFLINE = Unavailable("--offline: the network is left alone")
_WANTED_PACKAGE = "torch"
_PROXY_LOGIN = 407
_SERVER_ERROR = 500
_INDEXES = re.compile(r"^Looking in indexes: (.+)$", re.MULTILINE)


def look_at_weights_sources(request: Request, facts: Facts) -> tuple[Reply, ...] | Unavailable:
    """Each place that `kit weights fetch` would try, all at once."""
    places = tuple(_places(request))
    if request.offline and not all(url.startswith("file:") for url, _ in places):
        return _OFFLINE
    with ThreadPoolExecutor(len(places)) as pool:
        return tuple(pool.map(lambda place: ask(*place), places))


def look_at_index(request: Request, facts: Facts) -> Reply | Unavailable:
    """pip itself is asked for a package that serving needs."""
    if request.offline:
        return _OFFLINE
    command = [sys.executable, "-m", "pip", "index", "versions", _WANTED_PACKAGE]
    bounds = ["--timeout", f"{SECONDS:g}", "--retries", "0", "--disable-pip-version-check"]
    done = ran([*command, *bounds], 2 * SECONDS, request.environ)
    if done is None or "No module named pip" in done.error:
        return Unavailable("pip is not installed beside the kit")
    found = _INDEXES.search(done.out)
    url = found[1] if found else "pip's default index"
    why = "PIP_INDEX_URL" if request.environ.get("PIP_INDEX_URL") else "pip's configuration"
    return Reply(url, why, None if done.exit_code == 0 else done.last_error)


def look_at_registry(request: Request, facts: Facts) -> Reply | Unavailable:
    """The registry that images come from, by its API's root."""
    if request.offline:
        return _OFFLINE
    for variable in ("KIT_IMAGE", "KIT_BASE_IMAGE"):
        host = registry_host(request.environ.get(variable, ""))
        if host:
            return ask(f"https://{host}/v2/", variable)
    if not isinstance(facts.docker, Docker):
        return facts.docker
    if not facts.docker.registries:
        return Unavailable("the engine does not tell which registry it uses")
    first = facts.docker.registries[0]
    return ask(first.rstrip("/").removesuffix("/v1") + "/v2/", "the engine's configuration")


def registry_host(image: str) -> str | None:
    """Host of an image's name, as Docker reads it; None: it names none (Docker's default)."""
    host, slash, _ = image.partition("/")
    is_host = bool(slash) and ("." in host or ":" in host or host == "localhost")
    return host if is_host else None


def ask(url: str, why: str, clock: Callable[[], float] = time.time) -> Reply:
    """Ask for the headers at ``url``. Any answer but a gateway's or server's error will do."""
    shown = _without_secrets(url)
    if url.startswith("file:"):
        path = Path(urlsplit(url).path)
        return Reply(shown, why, None if path.exists() else "there is nothing at that place")
    import httpx

    from kit.weights.fetch.proxy import ProxiedTransport

    begin = clock()
    try:
        transport = ProxiedTransport(2 * SECONDS)
        with httpx.Client(transport=transport, timeout=SECONDS, follow_redirects=False) as client:
            response = client.head(url)
    except KitError as error:
        return Reply(shown, why, error.message)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, ImportError) as error:
        return Reply(shown, why, _text(error))
    middle = (begin + clock()) / 2
    bad = response.status_code == _PROXY_LOGIN or response.status_code >= _SERVER_ERROR
    problem = f"HTTP {response.status_code}" if bad else None
    return Reply(shown, why, problem, _ahead(response.headers, middle))


def _places(request: Request) -> Iterator[tuple[str, str]]:
    """Addresses, and what made us ask them."""
    if request.settings.weights_mirror:
        yield request.settings.weights_mirror, "KIT_WEIGHTS_MIRROR"
        return
    catalogue = read_catalogue(request.settings.weights_catalogue)
    for name in catalogue.find(WEIGHTS).sources:
        yield _address(catalogue.sources[name]), f"source {name}"
    if endpoint := request.environ.get("HF_ENDPOINT"):
        yield endpoint, "HF_ENDPOINT"


def _address(source: Source) -> str:
    names = ("repository", "base") if source.kind != "openi" else ("endpoint",)
    return next(source.options[name] for name in names if name in source.options)


def _ahead(headers: Mapping[str, str], middle: float) -> float | Unavailable:
    """Seconds by which the server's clock is ahead (RFC 9110, 6.6.1: Date, in whole seconds)."""
    try:
        when = parsedate_to_datetime(headers["Date"])
    except (KeyError, ValueError):
        return Unavailable("the answer has no Date")
    return (when - datetime.fromtimestamp(middle, UTC)).total_seconds()


def _without_secrets(url: str) -> str:
    """Scheme, host and path: a URL may carry a password or a signature."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that is none"
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def _text(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def look_at_clock(request: Request, facts: Facts) -> Clock:
    """Now, and the latest moment that is known to have passed."""
    when, because = max(_moments(request))
    return Clock(datetime.now(UTC), when, because)


def _moments(request: Request) -> Iterator[tuple[datetime, str]]:
    written = Path(kit.__file__).stat().st_mtime
    yield datetime.fromtimestamp(written, UTC), "the kit's files were written here then"
    for name, files in read_layers(request.settings.data_dir).weights.items():
        for locked in files.values():
            if locked.date:
                day = datetime.fromisoformat(locked.date).replace(tzinfo=UTC)
                yield day, f"the lock has {name} since then"
