"""Which rewrites there are, which of them are chosen, and a digest of the choice."""

import hashlib
import importlib
import json
import pkgutil
from collections.abc import Collection, Iterable
from dataclasses import asdict
from functools import cache
from typing import get_args

from kit.errors import UsageError
from kit.upstream import rewrites as folder
from kit.upstream.rewrite import Group, Rewrite, added_files, read_added

GROUPS: tuple[Group, ...] = get_args(Group)
MEANING: dict[Group, str] = {
    "portability": "runs with current torch and DeepSpeed, without apex or nvcc, on any device",
    "loading-cpu-first": "loads as the published fix does: on the CPU first, moved afterwards",
    "loading-stream": "loads each tensor once, cast on its way: no second copy of the weights",
    "memory-serving": "no mask of length², keys rotated once, no buffers of fp32 scores",
}
DEFAULT_GROUPS: tuple[Group, ...] = ("portability", "loading-stream", "memory-serving")
_EXCLUSIVE: frozenset[Group] = frozenset({"loading-cpu-first", "loading-stream"})
_FORM = 1
"""Raised when the engine makes other files of the same rewrites."""


@cache
def all_rewrites() -> tuple[Rewrite, ...]:
    """Every rewrite of ``kit/upstream/rewrites``, by group and name.

    Raises:
        ValueError: a file's name is not its rewrite's.
    """
    found = []
    for module in pkgutil.iter_modules(folder.__path__):
        rewrite: Rewrite = importlib.import_module(f"{folder.__name__}.{module.name}").REWRITE
        if module.name != rewrite.name.replace("-", "_"):
            raise ValueError(f"{module.name}.py holds the rewrite {rewrite.name}")
        found.append(rewrite)
    return tuple(sorted(found, key=_order))


def select(
    groups: Iterable[str] | None = None,
    *,
    names: Collection[str] = (),
    without: Collection[str] = (),
    known: Iterable[Rewrite] | None = None,
) -> tuple[Rewrite, ...]:
    """Choose rewrites: those of ``groups`` and ``names``, but none of ``without``.

    Args:
        groups: None for the default groups, or none at all where ``names`` are given.
        without: names of rewrites or of groups.
        known: what to choose from, by default the kit's own.

    Raises:
        UsageError: a name is unknown, or two ways of loading are chosen together.
    """
    rewrites = sorted(all_rewrites() if known is None else known, key=_order)
    if groups is None:
        groups = () if names else DEFAULT_GROUPS
    wanted = set(groups)
    _require_known("group", wanted, GROUPS)
    _require_known("rewrite", names, [rewrite.name for rewrite in rewrites])
    _require_known("rewrite or group", without, [*(r.name for r in rewrites), *GROUPS])
    chosen = tuple(
        rewrite
        for rewrite in rewrites
        if (rewrite.group in wanted or rewrite.name in names)
        and not {rewrite.group, rewrite.name} & set(without)
    )
    if {rewrite.group for rewrite in chosen} >= _EXCLUSIVE:
        raise UsageError(
            f"{' and '.join(sorted(_EXCLUSIVE))} are two ways to load and exclude each other",
            hint="choose one of them with --groups, or drop one with --without",
        )
    return chosen


def rewrite_digest(rewrites: Iterable[Rewrite]) -> str:
    """What identifies a choice of rewrites: the sha256, in hex, of all they put into the tree."""
    chosen = sorted(rewrites, key=lambda rewrite: rewrite.name)
    content = {
        "form": _FORM,
        "rewrites": {
            rewrite.name: {
                file: [[type(edit).__name__, asdict(edit)] for edit in edits]
                for file, edits in rewrite.edits.items()
            }
            for rewrite in chosen
        },
        "added": {
            name: hashlib.sha256(read_added(name)).hexdigest() for name in added_files(chosen)
        },
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _order(rewrite: Rewrite) -> tuple[int, str]:
    return GROUPS.index(rewrite.group), rewrite.name


def _require_known(kind: str, names: Iterable[str], known: Collection[str]) -> None:
    if unknown := sorted(set(names) - set(known)):
        raise UsageError(
            f"there is no {kind} named {', '.join(unknown)}",
            hint=f"known: {', '.join(known)}; kit upstream list describes them",
        )
