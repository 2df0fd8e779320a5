"""`kit upstream` as a user runs it, on the stand-in."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from kit.upstream.selection import all_rewrites, rewrite_digest, select
from tests.upstream_tree import MEGATRON, StandIn, make_stand_in

Kit = Callable[..., CompletedProcess[str]]
STRAY = f"{MEGATRON}/tools/stand_in.py"


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    return make_stand_in(tmp_path_factory.mktemp("upstream"))


@pytest.fixture
def upstream(tmp_path: Path, stand_in: StandIn) -> Kit:
    """``upstream("fetch", …)`` runs `kit upstream fetch …`; trees go into ``tmp_path/tree``."""
    environ = os.environ | {
        "KIT_UPSTREAM_TREE": str(tmp_path / "tree"),
        "KIT_UPSTREAM_LOCK": str(stand_in.lock_path),
        "KIT_UPSTREAM_MIRROR": str(stand_in.repository),
        "COLUMNS": "80",
    }

    def run(*arguments: str, **options: str) -> CompletedProcess[str]:
        command = [sys.executable, "-m", "kit", "upstream", *arguments]
        return subprocess.run(
            command, env=environ | options, capture_output=True, text=True, check=False
        )

    return run


def test_from_nothing_to_a_rewritten_tree(upstream: Kit, stand_in: StandIn, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    done = upstream("verify")
    assert done.returncode == 3
    assert "hint: make it: kit upstream fetch && kit upstream render" in done.stderr
    done = upstream("fetch")
    assert done.returncode == 0
    assert f"{tree}/pristine holds commit {stand_in.commit}: " in done.stdout
    assert "there already" in upstream("fetch").stdout
    done = upstream("render")
    assert done.returncode == 0
    assert f"digest    {rewrite_digest(select())}" in done.stdout
    assert "as before" in upstream("render").stdout
    done = upstream("verify")
    assert done.returncode == 0
    assert f"{tree}/pristine: pristine, commit {stand_in.commit}" in done.stdout
    assert f"{tree}/rewritten: rewritten, rewrites: {len(select())}, " in done.stdout


def test_in_one_step_as_an_image_is_built(upstream: Kit, stand_in: StandIn, tmp_path: Path) -> None:
    output, lock = str(tmp_path / "spark"), str(stand_in.lock_path)
    source = str(stand_in.repository)
    arguments = ("render", "--from", source, "--output", output, "--lock", lock, "--json")
    done = upstream(*arguments, KIT_UPSTREAM_LOCK="", KIT_UPSTREAM_TREE="/no/such/place")
    record = json.loads(done.stdout)
    assert record["directory"] == output
    assert record["written"] is True
    assert record["digest"] == rewrite_digest(select())
    done = upstream("verify", output, "--json")
    assert done.returncode == 0
    (tree,) = json.loads(done.stdout)["trees"]
    assert (tree["state"], tree["digest"]) == ("rewritten", record["digest"])


def test_into_the_folder_where_one_is(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upstream: Kit
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    checkout = str(Path(__file__).parents[3])
    done = upstream(
        "render", "--from", str(stand_in.repository), "--output", ".", PYTHONPATH=checkout
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "here" / MEGATRON).is_dir()


def test_drift_ends_with_4_and_names_the_file(upstream: Kit, tmp_path: Path) -> None:
    upstream("fetch")
    (tmp_path / "tree" / "pristine" / STRAY).write_text("changed")
    done = upstream("verify")
    assert done.returncode == 4
    assert f"  {STRAY} differs\n" in done.stdout
    assert "error: drifted:" in done.stderr
    done = upstream("render")
    assert (done.returncode, done.stdout) == (4, "")
    assert f"{STRAY} differs" in done.stderr
    assert not (tmp_path / "tree" / "rewritten").exists()
    states = json.loads(upstream("verify", "--json").stdout)["trees"]
    assert [state["state"] for state in states] == ["drifted", "absent"]
    assert states[0]["changed"] == [STRAY]


def test_a_folder_that_the_user_names(upstream: Kit, stand_in: StandIn, tmp_path: Path) -> None:
    other, tree = tmp_path / "other", tmp_path / "tree" / "pristine"
    done = upstream("verify", str(other))
    assert done.returncode == 3
    assert f"error: there is no {other}\n" in done.stderr
    other.mkdir()
    (other / "LICENSE").write_text("of something else")
    done = upstream("verify", str(other))
    assert (done.returncode, done.stdout) == (3, f"{other}: absent\n")
    assert f"error: {other} holds no upstream\n" in done.stderr
    upstream("fetch")
    tree.rename(tmp_path / "clone")
    (tmp_path / "clone" / STRAY).write_text("changed")
    done = upstream("verify", str(tmp_path / "clone"))
    assert done.returncode == 4
    assert f"  {STRAY} differs\n" in done.stdout
    assert "hint: take it again from where it came\n" in done.stderr
    upstream("render", "--from", str(stand_in.repository), "--output", str(tmp_path / "made"))
    (tmp_path / "made" / STRAY).unlink()
    done = upstream("verify", str(tmp_path / "made"))
    assert done.returncode == 4
    assert f"hint: make it again: kit upstream render --output {tmp_path}/made\n" in done.stderr


def test_a_lock_that_is_not_there(upstream: Kit, tmp_path: Path) -> None:
    done = upstream("verify", "--lock", str(tmp_path / "no.lock"))
    assert done.returncode == 3
    assert f"error: there is no {tmp_path}/no.lock\n" in done.stderr
    assert "git checkout" not in done.stderr


def test_the_stand_in_is_not_the_pinned_commit(upstream: Kit, tmp_path: Path) -> None:
    done = upstream("fetch", KIT_UPSTREAM_LOCK="")
    assert done.returncode == 3
    assert "has no commit 10f3cdfd80555cfb8d59f284500e6cb6084a091e" in done.stderr
    assert not (tmp_path / "tree" / "pristine").exists()


def test_a_rewrite_that_does_not_fit_writes_nothing(upstream: Kit, tmp_path: Path) -> None:
    """Its tree is as its lock says, but it is not what the rewrites were made for."""
    if not all_rewrites():
        pytest.skip("there is no rewrite that could drift")
    bare = make_stand_in(tmp_path / "bare", rewrites=[])
    done = upstream(
        *("render", "--from", str(bare.repository), "--lock", str(bare.lock_path)),
        *("--output", str(tmp_path / "out")),
    )
    assert done.returncode == 4
    first = select()[0]
    assert f"{first.name}: {next(iter(first.edits))} is missing" in done.stderr
    assert not (tmp_path / "out").exists()


def test_diff(upstream: Kit, stand_in: StandIn, tmp_path: Path) -> None:
    source = ("--from", str(stand_in.repository))
    rendered = json.loads(upstream("render", "--json", *source).stdout)
    names = upstream("diff", "--name-only", *source).stdout.splitlines()
    assert names == list(rendered["changed"])
    stat = upstream("diff", "--stat", *source).stdout.splitlines()
    assert [line.split()[0] for line in stat[:-1]] == names
    assert stat[-1].startswith(f"{len(names)} files changed, ")
    text = upstream("diff", *source).stdout
    assert [line[6:] for line in text.splitlines() if line.startswith("+++ b/")] == names


def test_list(upstream: Kit) -> None:
    record = json.loads(upstream("list", "--json").stdout)
    assert record["digest"] == rewrite_digest(select())
    assert record["groups"]["portability"]["default"] is True
    assert record["groups"]["loading-cpu-first"]["default"] is False
    assert [each["name"] for each in record["rewrites"]] == [each.name for each in all_rewrites()]
    assert {each["standing"] for each in record["rewrites"]} <= {"no tree"}
    upstream("fetch")
    record = json.loads(upstream("list", "--json").stdout)
    assert {each["standing"] for each in record["rewrites"]} <= {"fits"}
    text = upstream("list").stdout
    assert "loading-cpu-first (on request)" in text
    for rewrite in all_rewrites():
        assert f"\n  {rewrite.name} " in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--groups", "portable"], "no group named portable"),
        (["--rewrite", "nothing"], "no rewrite named nothing"),
        (["--without", "nothing"], "no rewrite or group named nothing"),
    ],
)
def test_wrong_choices_end_with_2(arguments: list[str], message: str, upstream: Kit) -> None:
    for command in ("render", "diff"):
        done = upstream(command, *arguments)
        assert done.returncode == 2
        assert message in done.stderr


def test_help_names_every_command(upstream: Kit) -> None:
    text = upstream("--help").stdout
    for command in ("fetch", "verify", "render", "diff", "list"):
        assert f"\n  {command} " in text
    assert "..." not in text.partition("Commands:")[2], "a first line is too long"
