"""Fetch a set of weights into its folder: verified, recorded, resumable."""

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from kit.errors import EnvironmentNotReady, IntegrityError
from kit.files import exclusive, full_disk_explained, write_durably
from kit.lock import LockedFile, locked_entry, read_entry
from kit.records import read_object
from kit.weights import folder, layers
from kit.weights.catalogue import Catalogue, Source, WeightSet
from kit.weights.fetch.download import download
from kit.weights.fetch.partial import KEPT, arrived_bytes, copy_file
from kit.weights.fetch.remote import Tuning
from kit.weights.fetch.sources import Offer, Offers, https, lfs, openi
from kit.weights.fetch.sources.https import local_path
from kit.weights.fetch.transfer import Arrived, Expected, Keep, Watch, require_size

_KINDS: dict[str, Callable[[Source, Mapping[str, str], Mapping[str, str]], Offers]] = {
    "lfs": lfs.offers,
    "openi": openi.offers,
    "https": https.offers,
}


def source_offers(source: Source, weights: WeightSet, environ: Mapping[str, str]) -> Offers:
    """What a source of the catalogue offers. Raises as its protocol's ``offers``."""
    headers = authorization(environ.get(source.token_variable or "", ""))
    return _KINDS[source.kind](source, weights.files, headers)


def mirror_offers(base: str, weights: WeightSet, environ: Mapping[str, str]) -> Offers:
    """What a mirror offers. Raises as ``https.mirror_offers``."""
    headers = authorization(environ.get(https.MIRROR_TOKEN, ""))
    return https.mirror_offers(base, weights, headers)


def authorization(token: str) -> dict[str, str]:
    """The header for a token: ``USER:PASSWORD`` as Basic, anything else as Bearer."""
    if not token:
        return {}
    if ":" in token:
        return {"Authorization": "Basic " + base64.b64encode(token.encode()).decode()}
    return {"Authorization": f"Bearer {token}"}


ARRIVING_NAME = ".arriving.json"


@dataclass(frozen=True)
class Fetched:
    """A set of which every file is there and was checked.

    Attributes:
        source: where the files came from now; None: all were there already.
        files: what they are, by path in ``directory``.
    """

    name: str
    directory: Path
    source: str | None
    files: Mapping[str, LockedFile]


@dataclass(frozen=True)
class Order:
    """What to fetch, and how.

    Attributes:
        directory: the set's own folder.
        sources: names of sources; the first that answers is taken.
        mirror: address to fetch from instead.
        data_dir: where the user's lock lies.
        environ: for access tokens.
    """

    weights: WeightSet
    directory: Path
    sources: Sequence[str]
    mirror: str | None
    data_dir: Path
    environ: Mapping[str, str]
    tuning: Tuning = field(default_factory=Tuning)


@dataclass(frozen=True)
class _Errand:
    """One file to bring: what is offered, and what the lock says of it."""

    target: Path
    offer: Offer
    known: LockedFile | None
    expected: Expected
    about_bytes: int

    @property
    def size_bytes(self) -> int:
        """About, where neither lock nor source tell beforehand."""
        return self.expected.size_bytes or self.about_bytes

    @property
    def left_bytes(self) -> int:
        return max(0, self.size_bytes - arrived_bytes(self.target))


def fetch(
    order: Order,
    catalogue: Catalogue,
    *,
    before: Callable[[int], None] = lambda nbytes: None,
    watch: Watch | None = None,
) -> Fetched:
    """Fetch what is not there yet. Every file is checked against the lock, or enters it.

    Digests that a source publishes enter at once, those that are only observed with the whole set.

    Args:
        before: called with the bytes still to come, before the first of them; may raise.

    Raises:
        EnvironmentNotReady: no source answers, no room, another fetch is running. What has arrived
            is kept, and the same call goes on.
        IntegrityError: a file is not what the lock or its source says.
    """
    watching = watch or Watch()
    name, directory = order.weights.name, order.directory
    with exclusive(directory, "fetching into"):
        locked = layers.read_layers(order.data_dir).weights.get(name, {})
        missing = _missing(order, locked, watching)
        source = None
        if missing:
            source, offered = _choose(order, catalogue, watching)
            finished = _finished(order, source, locked)
            errands = {
                file: _errand(order, file, offered[file], locked.get(file))
                for file in missing
                if file not in finished
            }
            if errands:
                before(sum(errand.left_bytes for errand in errands.values()))
                _run(order, source, errands, watching)
            locked = _lock_whole(order, source, locked)
        clear_arrived(directory)
        return Fetched(
            name, directory, source, {file: locked[file] for file in order.weights.files}
        )


def _run(order: Order, source: str, errands: Mapping[str, _Errand], watch: Watch) -> None:
    done_bytes, total_bytes = 0, sum(errand.size_bytes for errand in errands.values())
    watch.progress(sum(arrived_bytes(errand.target) for errand in errands.values()), total_bytes)
    for file, errand in errands.items():
        keep = partial(_record, order, source, file, errand.offer)
        part = watch.part(done_bytes, total_bytes)
        with _lock_explained(order, errand.known):
            arrived = _bring(errand, order.tuning, part, keep)
        done_bytes += arrived.size_bytes
        with full_disk_explained(errand.target.parent, KEPT):
            folder.remember(order.directory, file, arrived.sha256)


def _record(order: Order, source: str, file: str, offer: Offer, arrived: Arrived) -> None:
    """A published digest enters the lock at once, an observed one with the whole set."""
    today = datetime.now(UTC).date().isoformat()
    entry = LockedFile(arrived.size_bytes, arrived.sha256, offer.basis, offer.origin, today)
    if offer.basis == "pointer":
        with full_disk_explained(order.data_dir, KEPT):
            layers.record(order.data_dir, order.weights.name, {file: entry})
    else:
        with full_disk_explained(order.directory, KEPT):
            add_arrived(order.directory, source, {file: entry})


def _finished(order: Order, source: str, locked: Mapping[str, LockedFile]) -> set[str]:
    """Files that an interrupted fetch from ``source`` has brought, and that no lock knows yet."""
    return {
        file
        for file, entry in arrived_from(order.directory, source).items()
        if file not in locked
        and (order.directory / file).is_file()
        and folder.digest_of(order.directory, file) == entry.sha256
    }


def _lock_whole(
    order: Order, source: str, locked: Mapping[str, LockedFile]
) -> Mapping[str, LockedFile]:
    """Every file is there: what the lock did not know enters it. Returns its entries."""
    arrived = arrived_from(order.directory, source)
    new = {file: entry for file, entry in arrived.items() if file not in locked}
    with full_disk_explained(order.data_dir, KEPT):
        layers.record(order.data_dir, order.weights.name, new)
    return layers.read_layers(order.data_dir).weights[order.weights.name]


@contextmanager
def _lock_explained(order: Order, known: LockedFile | None) -> Iterator[None]:
    """Say how to give up what the lock holds, where nobody published it."""
    try:
        yield
    except IntegrityError as error:
        if known is None or known.basis != "observed":
            raise
        raise IntegrityError(
            error.message,
            hint=f"{error.hint}; the lock took it from {known.source} on {known.date}: "
            f"if that was the wrong file, kit weights lock --forget {order.weights.name}",
        ) from error


def _missing(order: Order, locked: Mapping[str, LockedFile], watch: Watch) -> tuple[str, ...]:
    """Files that are not there, or not as the lock says. What is there is read once."""
    missing = []
    for file in order.weights.files:
        path, known = order.directory / file, locked.get(file)
        if known is None or not path.is_file():
            missing.append(file)
        elif folder.digest_of(order.directory, file) != known.sha256:
            watch.notice(f"{path} is not what the lock says: it is fetched again")
            missing.append(file)
    return tuple(missing)


def _choose(order: Order, catalogue: Catalogue, watch: Watch) -> tuple[str, Offers]:
    if order.mirror is not None:
        mirror = order.mirror.rstrip("/")
        return mirror, mirror_offers(mirror, order.weights, order.environ)
    *first, last = order.sources
    for name in first:
        try:
            source = catalogue.sources[name]
            return name, source_offers(source, order.weights, order.environ)
        except EnvironmentNotReady as error:
            watch.notice(f"{name}: {error.message}; trying the next source")
    return last, source_offers(catalogue.sources[last], order.weights, order.environ)


def _errand(order: Order, file: str, offer: Offer, known: LockedFile | None) -> _Errand:
    """Refuses what the source announces, where that cannot be the file. Nothing was moved then."""
    target, published = order.directory / file, offer.expected
    plausible = order.weights.plausible_bytes(file)
    with _lock_explained(order, known):
        if known is not None and published.sha256 not in (None, known.sha256):
            raise IntegrityError(
                f"{offer.origin} announces sha256 {published.sha256} for "
                f"{order.weights.name}/{file}, the lock says {known.sha256}",
                hint="the file was replaced at the source: ask there why, before you change "
                "the lock",
            )
        expected = Expected(known.size_bytes, known.sha256) if known else published
        if published.size_bytes is not None:
            within = Expected(known.size_bytes if known else None, plausible_bytes=plausible)
            require_size(target, published.size_bytes, within, offer.origin)
    expected = replace(expected, plausible_bytes=plausible)
    about = order.weights.tensors_bytes if file == order.weights.checkpoint else None
    return _Errand(target, offer, known, expected, about or 0)


def _bring(errand: _Errand, tuning: Tuning, watch: Watch, keep: Keep) -> Arrived:
    target, expected, local = errand.target, errand.expected, local_path(errand.offer.origin)
    if local is not None:
        return copy_file(local, target, expected, watch=watch, keep=keep)
    return download(errand.offer.locate, target, expected, tuning=tuning, watch=watch, keep=keep)


def arrived_from(directory: Path, source: str) -> dict[str, LockedFile]:
    """Files of an unfinished set that ``source`` has sent, by path in ``directory``."""
    try:
        content = read_object(directory / ARRIVING_NAME)
        if content["source"] != source:
            return {}
        return {str(file): read_entry(entry) for file, entry in content["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def add_arrived(directory: Path, source: str, files: Mapping[str, LockedFile]) -> None:
    """Keep what ``files`` from ``source`` turned out to be. Those of another source are dropped."""
    known = arrived_from(directory, source) | dict(files)
    entries = {file: locked_entry(entry) for file, entry in known.items()}
    content = {"source": source, "files": entries}
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_durably(directory / ARRIVING_NAME, text.encode())


def clear_arrived(directory: Path) -> None:
    """Forget it all: the set is in the lock."""
    (directory / ARRIVING_NAME).unlink(missing_ok=True)
