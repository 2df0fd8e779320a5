"""Reading one commit out of a git repository: the one place of this room that starts git."""

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from kit.errors import EnvironmentNotReady
from kit.lock import Lock

TOPS = ("LICENSE", "LICENSE_MODEL.md", "deepspeed-megatron")
"""What the kit takes of the repository."""


# For a fetch on a slow line; whatever hangs longer does not come.
_TIMEOUT_S = 600.0
_FROM_ANOTHER = {
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
}
"""Set where the kit is called from a git hook, and about the repository of that."""

_STALLED = ("-c", "http.lowSpeedLimit=100", "-c", "http.lowSpeedTime=60")
_ALL = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")


def read_commit(repository: str, commit: str, paths: Collection[str]) -> bytes:
    """A tar of ``paths`` at ``commit``, in upstream's own bytes.

    Nothing is checked out, and no program of the repository's configuration runs.

    Args:
        repository: any address that git takes, or a folder.

    Raises:
        EnvironmentNotReady: there is no git, the repository is out of reach, or it has no such
            commit.
    """
    git = _program()
    with tempfile.TemporaryDirectory(prefix="spark-kit-") as folder:
        here = [git, "--git-dir", folder]
        _require([git, "init", "--quiet", "--bare", folder], repository)
        fetch = [*here, *_STALLED, "fetch", "--quiet", "--no-tags"]
        # Not every server gives a commit by its name; then its branches and tags are fetched.
        if _run([*fetch, "--depth", "1", "--", repository, commit]).returncode != 0:
            _require([*fetch, "--", repository, *_ALL], repository)
        if _run([*here, "cat-file", "-e", f"{commit}^{{commit}}"]).returncode != 0:
            raise EnvironmentNotReady(
                f"{shown(repository)} has no commit {commit}",
                hint="this is another repository, or a mirror that is behind; name one with --from",
            )
        return _require([*here, "archive", "--format=tar", commit, "--", *paths], repository)


def head(folder: Path) -> str | None:
    """The commit that is checked out in ``folder``; None where it is no git clone."""
    if not (folder / ".git").exists() or shutil.which("git") is None:
        return None
    done = _run([_program(), "-C", str(folder), "rev-parse", "--verify", "--quiet", "HEAD"])
    return done.stdout.decode().strip() or None


def _program() -> str:
    git = shutil.which("git")
    if git is None:
        raise EnvironmentNotReady(
            "git is not installed",
            hint="install it, or hand over the repository as a tarball: "
            "kit upstream fetch --from FILE.tar.gz",
        )
    return git


def _require(command: Sequence[str], repository: str) -> bytes:
    done = _run(command)
    if done.returncode != 0:
        said = " ".join(done.stderr.decode(errors="replace").split())
        raise EnvironmentNotReady(
            f"git cannot read {shown(repository)}: {said}",
            hint="check the address, the network and the proxy (git config http.proxy), or take it "
            "from elsewhere: --from or KIT_UPSTREAM_MIRROR names a mirror, a clone or a tarball",
        )
    return done.stdout


def _run(command: Sequence[str]) -> "subprocess.CompletedProcess[bytes]":
    # GIT_TERMINAL_PROMPT: git must fail where it would ask for a password.
    environ = {name: value for name, value in os.environ.items() if name not in _FROM_ANOTHER}
    environ |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    if "archive" in command:  # a user's core.autocrlf or attributes would change the bytes
        environ |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        environ |= {"GIT_ATTR_NOSYSTEM": "1"}
    try:
        return subprocess.run(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, b"", b"no answer for ten minutes")


def shown(repository: str) -> str:
    """The address as it may be shown: without a password that is in it."""
    parts = urlsplit(repository)
    return (
        parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        if parts.scheme
        else repository
    )


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
