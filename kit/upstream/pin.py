"""Pinning a commit: the sha256 of its files, for kit.lock."""

import hashlib
import io
import tarfile
from dataclasses import replace

from kit.lock import Lock
from kit.upstream.git import read_commit

TOPS = ("LICENSE", "LICENSE_MODEL.md", "deepspeed-megatron")
"""What the kit takes of the repository."""


def pin(lock: Lock, clone: str, commit: str) -> Lock:
    """The lock with ``commit`` pinned, whose files are read out of ``clone``.

    Raises:
        EnvironmentNotReady: git cannot read it.
    """
    tar = read_commit(clone, commit, TOPS)
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        files = {
            member.name: hashlib.sha256(data.read()).hexdigest()
            for member in archive
            if member.isreg() and (data := archive.extractfile(member))
        }
    return replace(lock, commit=commit, upstream_files=files)
