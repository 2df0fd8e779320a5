"""Folders, a port and a model of its own for every test."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no paths

from kit_process import REPOSITORY, Kit, free_port, write_tiny_model


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny")


@pytest.fixture
def kit(tmp_path: Path, model_dir: Path) -> Iterator[Kit]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("KIT_", "XDG_"))}
    port = free_port()
    environ = inherited | {
        "PYTHONPATH": str(REPOSITORY),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "KIT_PORT": str(port),
        "KIT_MODEL": str(model_dir),
        "CUDA_VISIBLE_DEVICES": "",
        "NO_COLOR": "1",
        "COLUMNS": "80",
        "http_proxy": "http://127.0.0.1:9",
    }
    kit = Kit(tmp_path, port, environ)
    yield kit
    kit("down")
