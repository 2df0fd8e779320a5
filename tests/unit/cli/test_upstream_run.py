"""`kit upstream run` on the stand-in for upstream."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

pytest.importorskip("deepspeed", reason="deepspeed is not installed")

from tests import stand_in_megatron
from tests.stand_in_megatron import MEGATRON

SHOW = "tools/show_start.py"
SET_BY_LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, str]:
    return stand_in_megatron.install(tmp_path)


@pytest.fixture
def run(tmp_path: Path, tree: dict[str, str]) -> Callable[..., CompletedProcess[str]]:
    """``run(*arguments, **environment)``, in a folder that holds a ``megatron`` of its own."""
    work = tmp_path / "work"
    (work / "megatron").mkdir(parents=True)
    (work / "megatron" / "__init__.py").write_text("raise ImportError('the wrong one')")
    kit_root = str(Path(__file__).parents[3])
    environ = {name: value for name, value in os.environ.items() if name not in SET_BY_LAUNCHERS}

    def start(*arguments: str, **more: str) -> CompletedProcess[str]:
        program = [sys.executable, "-P", "-m", "kit", "upstream", "run", "--device=cpu"]
        return subprocess.run(
            [*program, *arguments],
            env={**environ, **tree, "PYTHONPATH": kit_root, **more},
            cwd=work,
            capture_output=True,
            text=True,
            check=False,
        )

    return start


def shown(done: CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_script_runs_as_main_out_of_the_tree(run, tree) -> None:
    found = shown(run(SHOW, "--device", "x", "--help", "y"))
    folder = Path(tree["KIT_UPSTREAM_TREE"], "rewritten", MEGATRON).resolve()
    assert found["name"] == "__main__"
    assert found["file"] == str(folder / SHOW)
    assert found["arguments"] == ["--device", "x", "--help", "y"]
    assert found["environment"] == {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "DS_ACCELERATOR": "cpu",
    }
    assert 0 < int(found["port"]) < 65536
    assert found["megatron"] == str(folder / "megatron" / "__init__.py")
    assert found["path"] == [str(folder / "tools"), str(folder)]
    assert found["shm"] is False  # else DeepSpeed compiles at start


def test_its_exit_code_is_the_scripts(run) -> None:
    assert run(SHOW, "--exit=7").returncode == 7


def test_several_ranks(run, tmp_path: Path) -> None:
    done = run("--ranks=2", SHOW, str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = [json.loads((tmp_path / rank).read_text()) for rank in ("0", "1")]
    assert [each["environment"]["LOCAL_RANK"] for each in found] == ["0", "1"]
    assert [each["environment"]["LOCAL_SIZE"] for each in found] == ["2", "2"]
    assert found[0]["port"] == found[1]["port"]


def test_another_launchers_word_stands(run) -> None:
    given = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1"}
    done = run(SHOW, **given, MASTER_ADDR="192.0.2.1", MASTER_PORT="1234")
    found = shown(done)
    assert (found["environment"]["MASTER_ADDR"], found["port"]) == ("192.0.2.1", "1234")
    done = run("--ranks=2", SHOW, **given, MASTER_ADDR="192.0.2.1", MASTER_PORT="1234")
    assert done.returncode == 2
    assert "another launcher" in done.stderr


@pytest.mark.parametrize("name", ["absent.py", "../../spark-kit.json", "megatron", "/etc/hosts"])
def test_what_is_no_script_of_the_tree(name: str, run) -> None:
    done = run(name)
    assert done.returncode == 2
    assert f"no script {name}" in done.stderr
    assert "hint: try tools/run_iFlytekSpark_text_generation.py" in done.stderr


def test_a_drifted_tree_is_refused_and_a_used_one_runs(run, tree) -> None:
    folder = Path(tree["KIT_UPSTREAM_TREE"], "rewritten", MEGATRON)
    log = folder / "examples_deepspeed" / "iFlytekSpark" / "infer.log"
    log.parent.mkdir(parents=True)
    log.write_text("answers")
    assert run(SHOW).returncode == 0
    (folder / "tools" / "foreign.py").write_text("")
    done = run(SHOW)
    assert done.returncode == 4
    assert "foreign.py does not belong there" in done.stderr
