"""The state of the upstream trees against the lock, and of every rewrite in them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kit.lock import Lock
from kit.settings import Settings
from kit.upstream.files import Difference, Manifest, difference, read_folder, read_manifest
from kit.upstream.render import MEGATRON, changed_files, render
from kit.upstream.rewrite import Rewrite, find_drift
from kit.upstream.selection import all_rewrites, select
from kit.upstream.tree import expected_files, outdated, pinned, pristine_dir, rewritten_dir

State = Literal["absent", "pristine", "rewritten", "outdated", "drifted"]


@dataclass(frozen=True)
class Tree:
    """A tree and its state.

    Attributes:
        outdated: why this kit would make another rewritten tree, where that is the state.
        manifest: what a rewritten tree says of itself.
        left: what upstream's own scripts have left in it, which is no drift.
    """

    directory: Path
    state: State
    difference: Difference = field(default_factory=Difference)
    outdated: str | None = None
    manifest: Manifest | None = None
    left: tuple[str, ...] = ()


def verify(settings: Settings) -> tuple[Tree, Tree]:
    """The pristine and the rewritten tree of the settings. Raises as ``verify_tree``."""
    lock = pinned(settings)
    found = read_folder(pristine_dir(settings), lock.upstream_files)
    differs = difference(found, lock.upstream_files)
    pristine = verify_tree(pristine_dir(settings), lock)
    return pristine, verify_tree(rewritten_dir(settings), lock, None if differs else found.content)


def verify_tree(root: Path, lock: Lock, pristine: Mapping[str, bytes] | None = None) -> Tree:
    """The state of any tree, pristine or rewritten; absent is also one with nothing of upstream.

    Args:
        pristine: upstream's files, where they are here: then a rewritten tree is checked against
            what the rewrites make of them, else against its own manifest.

    Raises:
        EnvironmentNotReady: something cannot be read.
        IntegrityError: the lock or the tree's manifest is damaged.
    """
    if not root.exists():
        return Tree(root, "absent")
    manifest = read_manifest(root)
    if manifest is None:
        found = read_folder(root, lock.upstream_files)
        if not any("/" in file for file in (*found.content, *found.extra)):
            return Tree(root, "absent")  # a LICENSE has every project
        differs = difference(found, lock.upstream_files)
        return Tree(root, "drifted" if differs else "pristine", differs, left=found.left)
    if reason := outdated(manifest, lock):
        return Tree(root, "outdated", outdated=reason, manifest=manifest)
    expected: Mapping[str, str] = expected_files(manifest, lock)
    if pristine is not None:
        expected = render(pristine, select((), names=manifest.rewrites), lock).manifest.files
    found = read_folder(root, expected)
    state: State = "drifted" if (differs := difference(found, expected)) else "rewritten"
    return Tree(root, state, differs, manifest=manifest, left=found.left)


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
