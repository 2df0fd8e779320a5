"""Rendering: what comes out, and that it is written whole or not at all."""

from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

import kit
from kit.errors import EnvironmentNotReady, IntegrityError, UsageError
from kit.lock import Lock
from kit.upstream.files import MANIFEST_NAME, difference, read_folder, read_manifest
from kit.upstream.render import Rendered, changed_files, render, write_rendered
from kit.upstream.rewrite import Rewrite, Text, read_added
from kit.upstream.selection import rewrite_digest

LOCK = Lock("https://example.org/x", "10f3", {}, {})
PRISTINE = {
    "LICENSE": b"import slow\n",
    "deepspeed-megatron/tools/run.py": b"#!/usr/bin/env python\n# coding: utf-8\nimport slow\n",
    "deepspeed-megatron/megatron/a.py": b"import slow\n\nslow.go()\n",
    "deepspeed-megatron/run.sh": b"#!/bin/bash\npython slow.py\n",
    "deepspeed-megatron/data.txt": b"slow\n",
}
FAST = Rewrite(
    "fast",
    "portability",
    "it is slow",
    "it is fast",
    {
        "tools/run.py": (Text("slow", "fast"),),
        "megatron/a.py": (Text("import slow", "import fast"),),
        "run.sh": (Text("slow", "fast"),),
        "data.txt": (Text("slow", "fast"),),
    },
    adds=("__init__.py",),
)
CALL = Rewrite(
    "call", "memory-serving", "w", "r", {"megatron/a.py": (Text("slow.go()", "fast.go()"),)}
)


@pytest.fixture
def rendered() -> Rendered:
    return render(PRISTINE, [FAST, CALL], LOCK)


def test_every_file_is_there_and_the_changed_ones_say_so(rendered: Rendered) -> None:
    content = {name: data.decode() for name, data in rendered.content.items()}
    added = content.pop("deepspeed-megatron/megatron/spark_kit/__init__.py")
    assert content == {
        "LICENSE": "import slow\n",
        "deepspeed-megatron/tools/run.py": (
            "#!/usr/bin/env python\n# coding: utf-8\n# Changed by spark-kit: fast.\nimport fast\n"
        ),
        "deepspeed-megatron/megatron/a.py": (
            "# Changed by spark-kit: fast, call.\nimport fast\n\nfast.go()\n"
        ),
        "deepspeed-megatron/run.sh": (
            "#!/bin/bash\n# Changed by spark-kit: fast.\npython fast.py\n"
        ),
        "deepspeed-megatron/data.txt": "fast\n",
    }
    assert added.encode() == read_added("__init__.py")


def test_the_manifest_says_from_what_by_what_and_with_what_outcome(rendered: Rendered) -> None:
    manifest = rendered.manifest
    assert (manifest.kit, manifest.commit) == (kit.__version__, "10f3")
    assert manifest.repository == "https://example.org/x"
    assert manifest.digest == rewrite_digest([FAST, CALL])
    assert manifest.groups == ("portability", "memory-serving")
    assert manifest.rewrites == ("fast", "call")
    assert manifest.changed == changed_files([FAST, CALL])
    assert manifest.changed["deepspeed-megatron/megatron/a.py"] == ("fast", "call")
    assert manifest.files.keys() == rendered.content.keys()


def test_no_rewrites_change_nothing() -> None:
    rendered = render(PRISTINE, [], LOCK)
    assert rendered.content == PRISTINE
    assert rendered.manifest.changed == {}


def test_written_whole_and_only_once(rendered: Rendered, tmp_path: Path) -> None:
    output = tmp_path / "deep" / "rewritten"
    assert write_rendered(rendered, output)
    assert read_manifest(output) == rendered.manifest
    found = read_folder(output, rendered.manifest.files)
    assert not difference(found, rendered.manifest.files)
    assert found.content == rendered.content
    before = (output / MANIFEST_NAME).stat().st_ino
    assert not write_rendered(rendered, output)
    assert (output / MANIFEST_NAME).stat().st_ino == before


@pytest.mark.parametrize("damage", ["changed", "missing", "extra", "manifest"])
def test_a_damaged_tree_is_written_again(damage: str, rendered: Rendered, tmp_path: Path) -> None:
    write_rendered(rendered, tmp_path / "out")
    path = tmp_path / "out" / "deepspeed-megatron" / "megatron" / "a.py"
    match damage:
        case "changed":
            path.write_text("changed")
        case "missing":
            path.unlink()
        case "extra":
            path.with_name("new.py").write_text("")
        case "manifest":
            (tmp_path / "out" / MANIFEST_NAME).write_text("{}")
    assert write_rendered(rendered, tmp_path / "out")
    found = read_folder(tmp_path / "out", rendered.manifest.files)
    assert not difference(found, rendered.manifest.files)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.lock", "out"]


def test_another_selection_replaces_the_tree(rendered: Rendered, tmp_path: Path) -> None:
    write_rendered(rendered, tmp_path / "out")
    other = render(PRISTINE, [CALL], LOCK)
    assert write_rendered(other, tmp_path / "out")
    assert read_manifest(tmp_path / "out") == other.manifest
    assert not (tmp_path / "out/deepspeed-megatron/megatron/spark_kit").exists()


def test_a_tree_that_cannot_be_written_to_may_be_there_already(
    rendered: Rendered, tmp_path: Path
) -> None:
    """As in an image: the lock beside it is taken only where there is something to write."""
    write_rendered(rendered, tmp_path / "out")
    with FileLock(tmp_path / ".out.lock"):
        assert not write_rendered(rendered, tmp_path / "out")
        with pytest.raises(EnvironmentNotReady, match="another process is writing"):
            write_rendered(render(PRISTINE, [], LOCK), tmp_path / "out")


def test_other_things_are_not_overwritten(rendered: Rendered, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert write_rendered(rendered, tmp_path / "out")
    for taken in (tmp_path / "folder", tmp_path / "file"):
        if taken.name == "folder":
            taken.mkdir()
            (taken / "thesis.tex").write_text("all of it")
        else:
            taken.write_text("all of it")
        with pytest.raises(UsageError, match="exists and is not a rewritten tree"):
            write_rendered(rendered, taken)


def test_drift_is_refused_by_name() -> None:
    twice = replace(FAST, edits={"megatron/a.py": (Text("slow", "fast"),)})
    with pytest.raises(IntegrityError, match=r"fast: megatron/a\.py: 'slow' expected 1 .* found 2"):
        render(PRISTINE, [twice], LOCK)
