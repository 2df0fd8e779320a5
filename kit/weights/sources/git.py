"""Reading small files out of a git repository, without its history and without LFS content."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

_TIMEOUT_S = 120.0


def read_blobs(
    repository: str, revision: str, paths: Iterable[str], limit_bytes: int
) -> dict[str, bytes]:
    """The first bytes of files at a revision. What cannot be had is left out.

    Nothing of the repository is checked out and no program of its configuration runs.
    """
    git = shutil.which("git")
    if git is None:
        return {}
    # GIT_TERMINAL_PROMPT: git must fail where it would ask for a password.
    environ = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
    with tempfile.TemporaryDirectory() as folder:
        clone = [git, "clone", "--quiet", "--bare", "--depth", "1", "--filter=blob:none"]
        where = ["--branch", revision, "--", repository, folder]
        if _run([*clone, *where], environ) is None:
            return {}
        show = [git, "--git-dir", folder, "cat-file", "blob"]
        found = {path: _run([*show, f"HEAD:{path}"], environ) for path in paths}
    return {path: content[:limit_bytes] for path, content in found.items() if content is not None}


def _run(command: list[str], environ: dict[str, str]) -> bytes | None:
    try:
        done = subprocess.run(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
            cwd=Path("/"),
        )
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None
