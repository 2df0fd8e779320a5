"""Fetch a converted directory from a Hugging Face repository into the weights folder."""

from datetime import UTC, datetime
from pathlib import Path

from kit.errors import IntegrityError
from kit.lock import LockedFile
from kit.weights import layers
from kit.weights.exclusive import exclusive
from kit.weights.fetch import Fetched
from kit.weights.place import place
from kit.weights.sources.huggingface import Snapshot, snapshot
from kit.weights.transfer import Expected, Watch


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
