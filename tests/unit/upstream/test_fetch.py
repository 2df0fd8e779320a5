"""Fetching into the pristine tree: whole, once, and after any interruption."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from kit.errors import EnvironmentNotReady, IntegrityError, UsageError
from kit.settings import Settings
from kit.upstream.source import fetch
from kit.upstream.tree import pristine_dir, read_pristine
from tests.upstream_tree import MEGATRON, StandIn

STRAY = f"{MEGATRON}/tools/stand_in.py"
KILLED = """
import os, pathlib, signal, sys
left = int(sys.argv[1])
def dying(real):
    def call(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    return call
pathlib.Path.write_bytes = dying(pathlib.Path.write_bytes)
pathlib.Path.rename = dying(pathlib.Path.rename)
sys.argv = ["kit", "upstream", "fetch"]
from kit.cli.main import run
run()
"""


def get(settings: Settings, source: str | None = None) -> tuple[str | None, list[str]]:
    notices: list[str] = []
    fetched = fetch(settings, source, notices.append)
    assert fetched.directory == pristine_dir(settings)
    assert fetched.files == len(read_pristine(settings))
    return fetched.source, notices


def test_fetched_once(settings: Settings, stand_in: StandIn) -> None:
    origin, notices = get(settings)
    assert origin == str(stand_in.repository)
    assert notices == [f"fetching commit {stand_in.commit} from {stand_in.repository}"]
    assert get(settings) == (None, [])
    assert sorted(path.name for path in settings.upstream_dir.iterdir()) == [
        ".pristine.lock",
        "pristine",
    ]


def test_the_source_given_goes_before_the_mirror_and_that_before_the_lock(
    settings: Settings, stand_in: StandIn
) -> None:
    elsewhere = replace(settings, upstream_mirror="/no/such/mirror")
    with pytest.raises(UsageError, match="/no/such/mirror"):
        get(elsewhere)
    assert get(elsewhere, str(stand_in.repository))[0] == str(stand_in.repository)
    shutil.rmtree(pristine_dir(settings))
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        fetch(replace(settings, upstream_mirror=None), None, lambda text: _stop(said, text))
    assert said == [f"fetching commit {stand_in.commit} from {stand_in.lock.repository}"]


def _stop(said: list[str], text: str) -> None:
    said.append(text)
    raise KeyboardInterrupt


def test_a_drifted_tree_is_fetched_again(settings: Settings) -> None:
    get(settings)
    (pristine_dir(settings) / STRAY).write_text("changed")
    (pristine_dir(settings) / MEGATRON / "new.py").write_text("")
    assert get(settings)[0]
    assert not (pristine_dir(settings) / MEGATRON / "new.py").exists()


def test_a_source_that_differs_leaves_everything_as_it_was(
    settings: Settings, stand_in: StandIn, tmp_path: Path
) -> None:
    shutil.copytree(stand_in.repository, tmp_path / "clone")
    (tmp_path / "clone" / STRAY).write_text("changed")
    with pytest.raises(IntegrityError, match=f"{STRAY} differs"):
        get(settings, str(tmp_path / "clone"))
    assert not pristine_dir(settings).exists()
    get(settings)
    (pristine_dir(settings) / STRAY).write_text("mine")
    with pytest.raises(IntegrityError):
        get(settings, str(tmp_path / "clone"))
    assert (pristine_dir(settings) / STRAY).read_text() == "mine"


def test_other_things_are_not_overwritten(settings: Settings) -> None:
    pristine_dir(settings).mkdir(parents=True)
    (pristine_dir(settings) / "thesis.tex").write_text("all of it")
    with pytest.raises(UsageError, match="something else") as caught:
        get(settings)
    assert "KIT_UPSTREAM_TREE" in caught.value.hint
    assert (pristine_dir(settings) / "thesis.tex").exists()


@pytest.mark.parametrize("steps", range(9))
def test_killed_at_any_step_the_same_command_goes_on(
    steps: int, settings: Settings, stand_in: StandIn
) -> None:
    """Each write and rename of a fetch that replaces a drifted tree is a step."""
    get(settings)
    (pristine_dir(settings) / STRAY).write_text("changed")
    environ = os.environ | {
        "KIT_UPSTREAM_TREE": str(settings.upstream_dir),
        "KIT_UPSTREAM_LOCK": str(stand_in.lock_path),
        "KIT_UPSTREAM_MIRROR": str(stand_in.repository),
    }
    command = [sys.executable, "-c", KILLED, str(steps)]
    done = subprocess.run(command, env=environ, capture_output=True, check=False)
    writes = len(stand_in.lock.upstream_files)
    assert done.returncode == (-signal.SIGKILL if steps < writes + 2 else 0)
    get(settings)
    assert sorted(path.name for path in settings.upstream_dir.iterdir()) == [
        ".pristine.lock",
        "pristine",
    ]


def test_two_at_once(settings: Settings) -> None:
    settings.upstream_dir.mkdir(parents=True)
    with (
        FileLock(settings.upstream_dir / ".pristine.lock"),
        pytest.raises(EnvironmentNotReady, match="another process is writing"),
    ):
        get(settings)
    get(settings)


def test_a_folder_that_cannot_be_written(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentNotReady, match="cannot write to"):
        get(replace(settings, upstream_tree=tmp_path / "file" / "tree"))
