"""The kit's lock and rewrites against the real repo, where KIT_UPSTREAM_DIR names a clone of it."""

import ast
import itertools
import os
from dataclasses import replace
from pathlib import Path

import pytest

from kit.errors import IntegrityError
from kit.lock import Lock, read_lock
from kit.settings import bundled
from kit.upstream.git import pin
from kit.upstream.render import MEGATRON, diff_files, render
from kit.upstream.rewrite import Text, find_drift
from kit.upstream.selection import GROUPS, all_rewrites, select
from kit.upstream.source import read_source

UPSTREAM_DIR = os.environ.get("KIT_UPSTREAM_DIR")

pytestmark = pytest.mark.skipif(
    not UPSTREAM_DIR, reason="KIT_UPSTREAM_DIR names no clone of the upstream repo"
)

CHOICES = [
    groups
    for count in range(len(GROUPS) + 1)
    for groups in itertools.combinations(GROUPS, count)
    if not {"loading-cpu-first", "loading-stream"} <= set(groups)
]


@pytest.fixture(scope="session")
def lock() -> Lock:
    return read_lock(bundled("kit.lock"))


@pytest.fixture(scope="session")
def pristine(lock: Lock) -> dict[str, bytes]:
    return read_source(str(UPSTREAM_DIR), lock)


def inside(pristine: dict[str, bytes]) -> dict[str, bytes]:
    return {file.removeprefix(f"{MEGATRON}/"): content for file, content in pristine.items()}


def test_the_lock_is_what_git_says_of_the_pinned_commit(lock: Lock) -> None:
    if not (Path(str(UPSTREAM_DIR)) / ".git").exists():
        pytest.skip("KIT_UPSTREAM_DIR is no git clone")
    assert pin(lock, str(UPSTREAM_DIR), lock.commit) == lock


@pytest.mark.parametrize("groups", CHOICES, ids=lambda groups: "+".join(groups) or "none")
def test_every_choice_of_groups_applies(
    groups: tuple[str, ...], pristine: dict[str, bytes], lock: Lock
) -> None:
    rendered = render(pristine, select(groups), lock)
    for file in rendered.manifest.changed:
        if file.endswith(".py"):
            ast.parse(rendered.content[file], file)
    unchanged = rendered.content.keys() - rendered.manifest.changed.keys()
    assert all(rendered.content[file] == pristine[file] for file in unchanged)


def test_every_rewrite_applies_alone_and_changes_all_its_files(
    pristine: dict[str, bytes], lock: Lock
) -> None:
    for rewrite in all_rewrites():
        for diff in diff_files(pristine, render(pristine, [rewrite], lock)):
            notice = diff.file in pristine
            assert diff.added + diff.removed > notice, f"{rewrite.name} leaves {diff.file} as it is"


def test_every_edit_notices_when_its_file_drifts(pristine: dict[str, bytes]) -> None:
    """Without the text, and with one more of it."""
    files = inside(pristine)
    for rewrite in all_rewrites():
        for path, edits in rewrite.edits.items():
            for edit in edits:
                content = files[path].decode()
                spans = edit.matches(content)
                matched = content[spans[0][0] : spans[0][1]]
                without = content[: spans[0][0]] + "pass" + content[spans[0][1] :]
                more = content + "\n" + matched if isinstance(edit, Text) else without
                for drifted in (without, more):
                    one = replace(rewrite, edits={path: (edit,)})
                    assert find_drift(one, files | {path: drifted.encode()}), (rewrite.name, path)


def test_drift_in_the_real_tree_is_refused_by_name(pristine: dict[str, bytes], lock: Lock) -> None:
    for rewrite in all_rewrites():
        path = next(iter(rewrite.edits), None)
        if path is None:
            continue
        with pytest.raises(IntegrityError, match=rewrite.name) as caught:
            render(pristine | {f"{MEGATRON}/{path}": b""}, [rewrite], lock)
        assert path in caught.value.message
