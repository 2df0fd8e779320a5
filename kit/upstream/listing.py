"""Every rewrite, and how it stands to the trees that are here."""

from dataclasses import dataclass
from typing import Literal

from kit.settings import Settings
from kit.upstream.files import read_folder
from kit.upstream.manifest import read_manifest
from kit.upstream.render import MEGATRON
from kit.upstream.rewrite import Drift, Rewrite, find_drift
from kit.upstream.selection import all_rewrites
from kit.upstream.tree import outdated, pinned, pristine_dir, rewritten_dir

Standing = Literal["no tree", "fits", "applied", "drifted"]


@dataclass(frozen=True)
class Listed:
    """A rewrite and its standing.

    Attributes:
        standing: ``fits`` the pristine tree, is ``applied`` in the rewritten one, or is
            ``drifted``: does not fit.
    """

    rewrite: Rewrite
    standing: Standing
    drift: tuple[Drift, ...] = ()


def list_rewrites(settings: Settings) -> list[Listed]:
    """Every rewrite, by group and name. Raises as ``pinned`` and ``read_manifest``."""
    lock, root = pinned(settings), pristine_dir(settings)
    manifest = read_manifest(rewritten_dir(settings))
    applied = manifest.rewrites if manifest is not None and not outdated(manifest, lock) else ()
    found = read_folder(root, lock.upstream_files).content if root.is_dir() else None
    inside = {file.removeprefix(f"{MEGATRON}/"): content for file, content in (found or {}).items()}
    listed = []
    for rewrite in all_rewrites():
        drift = tuple(find_drift(rewrite, inside)) if found is not None else ()
        fits: Standing = "no tree" if found is None else "fits"
        standing: Standing = "applied" if rewrite.name in applied else fits
        listed.append(Listed(rewrite, "drifted" if drift else standing, drift))
    return listed
