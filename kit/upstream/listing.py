"""Every rewrite, and how it stands to the trees that are here."""

from dataclasses import dataclass
from typing import Literal

from kit.settings import Settings
from kit.upstream.files import read_folder
from kit.upstream.render import MEGATRON, changed_files
from kit.upstream.rewrite import Rewrite, find_drift
from kit.upstream.selection import all_rewrites
from kit.upstream.tree import pinned, pristine_dir
from kit.upstream.verify import Tree, verify

Standing = Literal["no tree", "fits", "applied", "drifted"]


@dataclass(frozen=True)
class Listed:
    """A rewrite and its standing.

    Attributes:
        standing: ``fits`` the pristine tree, is ``applied`` in the rewritten one, or is
            ``drifted``: does not fit, or a file in the rewritten tree is not as it has made it.
        drift: what has drifted, one line each.
    """

    rewrite: Rewrite
    standing: Standing
    drift: tuple[str, ...] = ()


def list_rewrites(settings: Settings) -> list[Listed]:
    """Every rewrite, by group and name. Raises as ``verify``."""
    lock, root = pinned(settings), pristine_dir(settings)
    _, rewritten = verify(settings)
    found = read_folder(root, lock.upstream_files).content if root.is_dir() else None
    inside = {file.removeprefix(f"{MEGATRON}/"): content for file, content in (found or {}).items()}
    listed = []
    for rewrite in all_rewrites():
        drift = [str(each) for each in find_drift(rewrite, inside)] if found is not None else []
        standing: Standing = "no tree" if found is None else "fits"
        if _is_applied(rewrite, rewritten):
            standing, drift = "applied", [*drift, *_damage(rewrite, rewritten)]
        listed.append(Listed(rewrite, "drifted" if drift else standing, tuple(drift)))
    return listed


def _is_applied(rewrite: Rewrite, tree: Tree) -> bool:
    if tree.manifest is None or tree.state == "outdated":
        return False
    return rewrite.name in tree.manifest.rewrites


def _damage(rewrite: Rewrite, tree: Tree) -> list[str]:
    """The rewrite's files that are not, or no longer, as it has made them."""
    files = changed_files([rewrite])
    return [
        f"{rewrite.name}: {file} {what} in the rewritten tree: kit upstream render makes it again"
        for what, differ in (
            ("is missing", tree.difference.missing),
            ("differs", tree.difference.changed),
        )
        for file in differ
        if file in files
    ]
