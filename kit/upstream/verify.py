"""The state of the upstream trees: every file is read and checked against the lock."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kit.lock import Lock
from kit.settings import Settings
from kit.upstream.files import Difference, difference, read_folder
from kit.upstream.manifest import Manifest, read_manifest
from kit.upstream.render import render
from kit.upstream.selection import select
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
