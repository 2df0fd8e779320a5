"""The states of the trees."""

import hashlib
import json
from pathlib import Path

import pytest

from kit.errors import IntegrityError
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
from kit.upstream.verify import verify, verify_tree

STRAY = f"{MEGATRON}/tools/stand_in.py"


@pytest.fixture
def made(settings: Settings) -> Settings:
    fetch(settings, None, lambda text: None)
    write_rendered(
        render(read_pristine(settings), select(), pinned(settings)), rewritten_dir(settings)
    )
    return settings


def states(settings: Settings) -> list[str]:
    return [tree.state for tree in verify(settings)]


def test_states(settings: Settings) -> None:
    assert states(settings) == ["absent", "absent"]
    fetch(settings, None, lambda text: None)
    assert states(settings) == ["pristine", "absent"]
    rendered = render(read_pristine(settings), select(), pinned(settings))
    write_rendered(rendered, rewritten_dir(settings))
    assert states(settings) == ["pristine", "rewritten"]


@pytest.mark.parametrize("which", [0, 1])
def test_drift_is_named(which: int, made: Settings) -> None:
    root = verify(made)[which].directory
    (root / STRAY).write_text("changed")
    (root / "LICENSE").unlink()
    (root / MEGATRON / "new.py").write_text("")
    tree = verify(made)[which]
    assert tree.state == "drifted"
    assert tree.difference.missing == ("LICENSE",)
    assert tree.difference.changed == (STRAY,)
    assert tree.difference.extra == (f"{MEGATRON}/new.py",)
    assert verify(made)[1 - which].state != "drifted"


def test_with_the_pristine_tree_beside_it_no_manifest_helps(made: Settings) -> None:
    """A rewritten tree is checked against what the rewrites make, not against what it claims."""
    root = rewritten_dir(made)
    manifest = json.loads((root / MANIFEST_NAME).read_text())
    for file in manifest["changed"]:
        (root / file).write_text("changed")
        manifest["files"][file] = hashlib.sha256(b"changed").hexdigest()
    (root / MANIFEST_NAME).write_text(json.dumps(manifest))
    assert sorted(verify(made)[1].difference.changed) == sorted(manifest["changed"])


def test_a_tree_of_other_rewrites_is_outdated(made: Settings) -> None:
    path = rewritten_dir(made) / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"digest": "0" * 64}))
    tree = verify(made)[1]
    assert tree.state == "outdated"
    assert "made by other rewrites" in (tree.outdated or "")


def test_any_folder_can_be_verified(made: Settings, tmp_path: Path) -> None:
    lock = pinned(made)
    assert verify_tree(pristine_dir(made), lock).state == "pristine"
    assert verify_tree(rewritten_dir(made), lock).state == "rewritten"
    assert verify_tree(tmp_path / "absent", lock).state == "absent"
    (tmp_path / "empty").mkdir()
    assert verify_tree(tmp_path / "empty", lock).state == "absent"
    (tmp_path / "empty" / "LICENSE").write_text("of something else")
    assert verify_tree(tmp_path / "empty", lock).state == "absent"
    (tmp_path / "empty" / MEGATRON).mkdir()
    (tmp_path / "empty" / MEGATRON / "new.py").write_text("")
    assert verify_tree(tmp_path / "empty", lock).state == "drifted"


USED = (
    f"{MEGATRON}/examples_deepspeed/iFlytekSpark/infer.log",
    f"{MEGATRON}/megatron/data/helpers.cpython-311-x86_64-linux-gnu.so",
)


def test_a_used_tree_is_not_a_drifted_one(made: Settings) -> None:
    for root in (pristine_dir(made), rewritten_dir(made)):
        for file in USED:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_text("written while it ran")
    assert states(made) == ["pristine", "rewritten"]
    assert [tree.left for tree in verify(made)] == [USED, USED]
    assert require_rewritten(made) == rewritten_dir(made) / MEGATRON
    rendered = render(read_pristine(made), select(), pinned(made))
    assert not write_rendered(rendered, rewritten_dir(made))  # what was written stays
    assert (rewritten_dir(made) / USED[0]).exists()


def test_a_link_in_place_of_what_is_left_is_drift(made: Settings) -> None:
    link = rewritten_dir(made) / USED[1]
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to("/etc/hostname")
    assert verify(made)[1].difference.extra == (USED[1],)
    with pytest.raises(IntegrityError, match=r"helpers.*does not belong there"):
        require_rewritten(made)
