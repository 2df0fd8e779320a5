"""Folders, a port and a model of its own for every test."""

import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no paths

from kit_process import REPOSITORY, Kit


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """The headers of a tiny model: all that the stand-in and the plan look at."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    header = json.dumps({"w": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(64)
    (folder / "model.safetensors").write_bytes(data)
    shape = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128}
    shape |= {"vocab_size": 100, "max_position_embeddings": 256, "sliding_window": 128}
    (folder / "config.json").write_text(json.dumps(shape))
    return folder


@pytest.fixture
def kit(tmp_path: Path, model_dir: Path) -> Iterator[Kit]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("KIT_", "XDG_"))}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
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
