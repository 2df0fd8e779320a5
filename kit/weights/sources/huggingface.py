"""A Hugging Face repository with a conversion of one's own, through huggingface_hub.

So HF_ENDPOINT, HF_HOME (its cache), HF_TOKEN and HF_HUB_OFFLINE mean what they mean everywhere.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kit.errors import EnvironmentNotReady, UsageError
from kit.weights.proxy import for_others

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
