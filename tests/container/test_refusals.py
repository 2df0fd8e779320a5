"""A container that cannot serve ends with an exit code and a hint."""

import json
import shutil
from pathlib import Path

import pytest

from tests.container.conftest import Run
from tests.container.containers import Container

pytestmark = pytest.mark.container


@pytest.fixture
def damaged(demo: Path, tmp_path: Path) -> Path:
    """A copy of the demo, to be damaged."""
    folder = tmp_path / "demo"
    shutil.copytree(demo, folder)
    return folder


def require_refusal(container: Container, exit_code: int, *words: str) -> None:
    """It ended with ``exit_code``; its last two lines are an error with these words and a hint."""
    assert container.wait_ended() == exit_code, container.logs
    error, hint = container.logs.splitlines()[-2:]
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    assert all(word in error for word in words), error


def test_without_a_mount_it_says_what_is_missing(run: Run) -> None:
    require_refusal(run(model=None, quiet=False), 3, "/model")


def test_a_folder_of_another_user_is_not_read(run: Run, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    require_refusal(run(model=tmp_path, quiet=False), 3, "/model cannot be read by user 10001")


def test_an_empty_folder_is_no_model(run: Run, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    require_refusal(run(model=tmp_path, quiet=False), 3, "/model", "config.json")


def test_missing_weights_are_named(run: Run, damaged: Path) -> None:
    (damaged / "model.safetensors").unlink()
    require_refusal(run(model=damaged, quiet=False), 3, "safetensors")


def test_truncated_weights_are_damage(run: Run, damaged: Path) -> None:
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    require_refusal(run(model=damaged, quiet=False), 4, "model.safetensors")


def test_one_changed_bit_is_damage(run: Run, damaged: Path) -> None:
    weights = damaged / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1000] ^= 1
    weights.write_bytes(content)
    require_refusal(run(model=damaged, quiet=False), 4, "model.safetensors", "has other bytes in")


def test_weights_of_another_shape_are_damage(run: Run, damaged: Path) -> None:
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps(config | {"intermediate_size": 8}))
    require_refusal(run(model=damaged, quiet=False), 4)


def test_a_memory_limit_that_is_too_small_kills_it_and_docker_says_so(run: Run) -> None:
    container = run("--memory=100m", "--memory-swap=100m", quiet=False)
    assert container.wait_ended() == 137
    assert container.state["OOMKilled"]
