"""The tree that an engine may import from."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kit.errors import EnvironmentNotReady, IntegrityError
from kit.lock import write_lock
from kit.settings import Settings
from kit.upstream.files import MANIFEST_NAME
from kit.upstream.render import MEGATRON, render, write_rendered
from kit.upstream.selection import select
from kit.upstream.source import fetch
from kit.upstream.tree import (
    pinned,
    pristine_dir,
    read_pristine,
    require_rewritten,
    rewritten_dir,
)
from tests.upstream_tree import StandIn


@pytest.fixture
def rewritten(settings: Settings) -> Settings:
    """Settings whose trees are fetched and rendered."""
    fetch(settings, None, lambda text: None)
    make(settings)
    return settings


def make(settings: Settings, **choice: Any) -> None:
    rendered = render(read_pristine(settings), select(**choice), pinned(settings))
    write_rendered(rendered, rewritten_dir(settings))


def edit_manifest(settings: Settings, edit: Callable[[dict[str, Any]], None]) -> None:
    path = rewritten_dir(settings) / MANIFEST_NAME
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_the_kits_own_lock_lists_the_pinned_files(tmp_path: Path) -> None:
    lock = pinned(Settings(data_dir=tmp_path, state_dir=tmp_path))
    assert lock.commit == "10f3cdfd80555cfb8d59f284500e6cb6084a091e"
    assert lock.upstream_files.keys() > {"LICENSE", "LICENSE_MODEL.md"}
    assert len(lock.upstream_files) == 324


def test_a_lock_without_files_pins_nothing(settings: Settings, stand_in: StandIn) -> None:
    path = settings.data_dir / "kit.lock"
    path.parent.mkdir()
    write_lock(path, replace(stand_in.lock, upstream_files={}))
    with pytest.raises(IntegrityError, match="lists no files of upstream"):
        pinned(replace(settings, upstream_lock=path))


def test_what_is_missing_is_said_with_the_command(settings: Settings) -> None:
    for wanted, command in ((read_pristine, "fetch"), (require_rewritten, "fetch && kit upstream")):
        with pytest.raises(EnvironmentNotReady, match=r"there is no .*upstream tree") as caught:
            wanted(settings)
        assert f"kit upstream {command}" in caught.value.hint


def test_a_drifted_pristine_tree_is_not_read(rewritten: Settings) -> None:
    (pristine_dir(rewritten) / "LICENSE").unlink()
    with pytest.raises(IntegrityError, match="LICENSE is missing"):
        read_pristine(rewritten)


def test_the_folder_to_import_from(rewritten: Settings) -> None:
    assert require_rewritten(rewritten) == rewritten.upstream_dir / "rewritten" / MEGATRON
    make(rewritten, groups=["portability"])
    assert require_rewritten(rewritten).is_dir()
    make(rewritten, groups=[])
    assert require_rewritten(rewritten).is_dir()


@pytest.mark.parametrize("damage", ["changed", "missing", "extra"])
def test_drift_is_refused_by_name(damage: str, rewritten: Settings) -> None:
    path = rewritten_dir(rewritten) / MEGATRON / "tools" / "stand_in.py"
    match damage:
        case "changed":
            path.write_text("changed")
        case "missing":
            path.unlink()
        case "extra":
            path = path.with_name("new.py")
            path.write_text("")
    with pytest.raises(IntegrityError, match=rf"tools/{path.name}") as caught:
        require_rewritten(rewritten)
    assert "kit upstream render" in caught.value.hint


def test_a_manifest_cannot_excuse_a_file_that_no_rewrite_changes(rewritten: Settings) -> None:
    stray = f"{MEGATRON}/tools/stand_in.py"
    (rewritten_dir(rewritten) / stray).write_text("changed")
    digest = "8bc9ba2a2ea7ba9b1f0b0f23aea8d5cbc4a2cf7ea4b8c1ed1f3f9e44a4c8a1ee"
    edit_manifest(rewritten, lambda content: content["files"].update({stray: digest}))
    with pytest.raises(IntegrityError, match=f"{stray} differs"):
        require_rewritten(rewritten)
    edit_manifest(rewritten, lambda content: content["changed"].update({stray: ["fast"]}))
    with pytest.raises(EnvironmentNotReady, match="was made by other rewrites"):
        require_rewritten(rewritten)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("commit", "f495", "is of commit f495, .* is pinned"),
        ("digest", "0" * 64, "was made by other rewrites, those of spark-kit"),
        ("rewrites", ["retired"], "was made by other rewrites, those of spark-kit"),
    ],
)
def test_a_tree_of_another_kit_or_commit_is_not_used(
    key: str, value: object, reason: str, rewritten: Settings
) -> None:
    edit_manifest(rewritten, lambda content: content.update({key: value}))
    with pytest.raises(EnvironmentNotReady, match=reason) as caught:
        require_rewritten(rewritten)
    assert "kit upstream render" in caught.value.hint


def test_the_pristine_tree_is_not_needed(rewritten: Settings) -> None:
    """An image holds the rewritten one alone."""
    pristine_dir(rewritten).rename(rewritten.upstream_dir / "gone")
    assert require_rewritten(rewritten)


def test_where_trees_lie(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, state_dir=tmp_path)
    assert settings.upstream_dir == tmp_path / "upstream"
    chosen = Settings.from_environ({"HOME": str(tmp_path), "KIT_UPSTREAM_TREE": "/opt/spark"})
    assert rewritten_dir(chosen) == Path("/opt/spark/rewritten")
