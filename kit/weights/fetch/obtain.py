"""From a name to files on this machine: licence, source, room, download, check, in this order."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from kit.errors import EnvironmentNotReady, IntegrityError, UsageError
from kit.files import exclusive
from kit.lock import LockedFile
from kit.memory.probes import nvml
from kit.memory.probes.nvml import Gpu
from kit.memory.room import Room, require_room
from kit.memory.unavailable import Unavailable
from kit.settings import Settings
from kit.weights import layers, preflight
from kit.weights.catalogue import Catalogue, WeightSet, read_catalogue
from kit.weights.convert.record import Precision
from kit.weights.fetch.fetch import Fetched, Order, fetch
from kit.weights.fetch.proxy import for_others
from kit.weights.fetch.remote import Tuning
from kit.weights.fetch.take_in import place
from kit.weights.fetch.transfer import Expected, Watch
from kit.weights.folder import checkpoint_dir
from kit.weights.licence import How, Terms, require_acceptance

PREFIX = "hf:"
_NAME = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WANTED = ("*.safetensors", "*.json", "*.model", "*.py", "*.jinja", "*.md", "LICENSE*")
"""Never a pickle: nothing that executes when it is loaded."""


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit, in huggingface_hub's cache.

    Attributes:
        commit: the git commit's hash.
        files: every file there, by path in the repository.
        published: sha256 of those that the repository keeps in LFS: the cache names them by it.
    """

    repository: str
    commit: str
    files: Mapping[str, Path]
    published: Mapping[str, str]


def snapshot(name: str) -> Snapshot:
    """Download ``hf:OWNER/REPOSITORY`` or ``hf:OWNER/REPOSITORY@REVISION`` into the cache.

    Raises:
        UsageError: ``name`` is neither, or a proxy's variable cannot be understood.
        EnvironmentNotReady: huggingface_hub is not installed, or the repository cannot be had.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise UsageError(f"{name!r} names no repository", hint="hf:OWNER/NAME or hf:OWNER/NAME@TAG")
    repository, revision = found[1], found[2]
    os.environ.update(for_others(os.environ))
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise EnvironmentNotReady(
            "huggingface_hub is not installed", hint="pip install huggingface_hub"
        ) from error
    try:
        folder = snapshot_download(repository, revision=revision, allow_patterns=list(_WANTED))
    except Exception as error:  # its own errors, and those of whichever HTTP library it uses
        raise EnvironmentNotReady(
            f"cannot get {repository} from Hugging Face: {error}",
            hint="check the name; HF_TOKEN for a private one, HF_ENDPOINT for a mirror; "
            "with HF_HUB_OFFLINE it has to be in the cache (HF_HOME)",
        ) from error
    directory = Path(folder)
    files = {p.relative_to(directory).as_posix(): p for p in directory.rglob("*") if p.is_file()}
    blobs = {file: path.resolve().name for file, path in sorted(files.items())}
    published = {file: blob for file, blob in blobs.items() if _SHA256.fullmatch(blob)}
    return Snapshot(repository, directory.name, files, published)


_OWN_LICENCE = "spark-13b"
"""Of what users have made of the weights: the licence holds for derived models too."""


@dataclass(frozen=True)
class Wish:
    """What a user asks for.

    Attributes:
        name: of a set in the catalogue, or ``hf:OWNER/NAME[@REVISION]``.
        source: of the catalogue; None: the set's, in their order.
        mirror: address to fetch from instead of a source.
        directory: for the files; None: their place in the data folder.
        precision: that it will be served in.
        gpu_memory_bytes: of the GPU that it is meant for; None: this machine's.
        preflight: whether room is checked first.
    """

    name: str
    source: str | None = None
    mirror: str | None = None
    directory: Path | None = None
    precision: Precision = "bf16"
    gpu_memory_bytes: int | None = None
    preflight: bool = True
    tuning: Tuning = field(default_factory=Tuning)


def obtain(
    wish: Wish,
    settings: Settings,
    environ: Mapping[str, str],
    ask: Callable[[Terms], How],
    watch: Watch,
) -> Fetched:
    """Fetch what is wished for, or go on with an interrupted call.

    Args:
        ask: shows the licence's terms and returns how they were accepted.

    Raises:
        UsageError: there is no such set or source.
        EnvironmentNotReady: no licence, no room, no network. What has arrived is kept.
        IntegrityError: a file is not what the lock or its source says.
    """
    catalogue = read_catalogue(settings.weights_catalogue)
    online = not (wish.mirror or "").startswith("file:")
    if wish.name.startswith(PREFIX):
        licence = catalogue.licences[_OWN_LICENCE]
        require_acceptance(licence, settings.data_dir, ask, online=online)
        leaf = wish.name.removeprefix(PREFIX).partition("@")[0].replace("/", "--")
        directory = wish.directory or settings.data_dir / leaf
        return fetch_repository(wish.name, directory, settings.data_dir, watch)
    weights = catalogue.find(wish.name)
    sources = _sources(wish, weights, catalogue)
    require_acceptance(weights.licence, settings.data_dir, ask, online=online)
    directory = wish.directory or checkpoint_dir(settings.data_dir, weights.name)

    def before(left_bytes: int) -> None:
        if wish.preflight:
            rooms = _rooms(wish, weights, directory, settings.data_dir, left_bytes)
            for warning in require_room(rooms, "--no-preflight goes on nevertheless"):
                watch.notice(f"warning: {warning}")

    order = Order(weights, directory, sources, wish.mirror, settings.data_dir, environ, wish.tuning)
    return fetch(order, catalogue, before=before, watch=watch)


def fitting_precision(name: str, settings: Settings, gpu_memory_bytes: int | None) -> Precision:
    """What to convert set ``name`` to, for this machine's GPU or one of that size.

    Raises:
        UsageError: there is no such set.
    """
    if name.startswith(PREFIX):
        return "bf16"
    weights = read_catalogue(settings.weights_catalogue).find(name)
    return preflight.choose_precision(weights, gpu=_gpu(), gpu_memory_bytes=gpu_memory_bytes)


def _sources(wish: Wish, weights: WeightSet, catalogue: Catalogue) -> tuple[str, ...]:
    if wish.source is None:
        return weights.sources
    if wish.source not in weights.sources:
        raise UsageError(
            f"{weights.name} is not offered by {wish.source!r}",
            hint=f"its sources: {', '.join(weights.sources)}; any other place: --mirror URL",
        )
    return (wish.source,)


def _rooms(
    wish: Wish, weights: WeightSet, directory: Path, data_dir: Path, left_bytes: int
) -> tuple[Room, ...]:
    converted = preflight.converted_bytes(weights, wish.precision) or 0
    disk = preflight.disk_needs(
        [(directory, left_bytes, "to download"), (data_dir, converted, "for the conversion")]
    )
    memory = preflight.memory_needs(
        weights, wish.precision, gpu=_gpu(), gpu_memory_bytes=wish.gpu_memory_bytes
    )
    return (*disk, *memory)


def _gpu() -> Gpu | None:
    """The one that kit up would take: weights are fetched for it."""
    found = nvml.gpus()
    return (
        None
        if isinstance(found, Unavailable)
        else next(iter(nvml.visible(found, os.environ)), None)
    )


def fetch_repository(name: str, directory: Path, data_dir: Path, watch: Watch) -> Fetched:
    """Fetch ``hf:OWNER/NAME[@REVISION]``; large files are linked to huggingface_hub's cache.

    The lock knows a repository by its commit, so another commit is another set.

    Raises:
        EnvironmentNotReady: the repository cannot be had, or the disk is full.
        IntegrityError: a file is not what the lock or the repository says.
    """
    with exclusive(directory, "fetching into"):
        found = snapshot(name)
        key = f"hf:{found.repository}@{found.commit}"
        locked = layers.read_layers(data_dir).weights.get(key, {})
        entries = {}
        done, total = 0, sum(path.stat().st_size for path in found.files.values())
        for file in found.files:
            part = watch.part(done, total)
            entries[file] = _place(found, file, directory, locked.get(file), part)
            done += entries[file].size_bytes
        layers.record(data_dir, key, entries)
        return Fetched(key, directory, f"Hugging Face, commit {found.commit}", entries)


def _place(
    found: Snapshot, file: str, directory: Path, locked: LockedFile | None, watch: Watch
) -> LockedFile:
    published = found.published.get(file)
    if locked is not None and published not in (None, locked.sha256):
        raise IntegrityError(
            f"the repository says sha256 {published} for {file}, the lock says {locked.sha256}",
            hint="find out which is the original before you use either",
        )
    expected = Expected(sha256=published or (locked.sha256 if locked else None))
    arrived = place(found.files[file], directory, file, expected, link=True, watch=watch)
    return LockedFile(
        arrived.size_bytes,
        arrived.sha256,
        "pointer" if published else "observed",
        f"Hugging Face {found.repository}",
        datetime.now(UTC).date().isoformat(),
    )
