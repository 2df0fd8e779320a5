"""Engines that promise the same: the server tests' fake and the native one."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "serve"))  # for serve_fakes

from serve_fakes import FakeEngine

from kit.serve.engine import Engine
from kit.serve.native import NativeEngine
from kit.weights.convert import convert_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden" / "data" / "a"


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("contract") / "model"
    convert_checkpoint(
        GOLDEN / "ckpt",
        directory,
        precision="fp32",
        tokenizer=GOLDEN / "tokenizer",
        config=GOLDEN / "config.json",
    )
    return directory


@pytest.fixture(params=["fake", "native"])
def unloaded(request: pytest.FixtureRequest) -> Engine:
    if request.param == "fake":
        return FakeEngine("x" * 250)
    torch.set_num_threads(1)
    directory = request.getfixturevalue("model_dir")
    return NativeEngine(directory, device="cpu", max_sequences=2)


@pytest.fixture
def engine(unloaded: Engine) -> Iterator[Engine]:
    unloaded.load(lambda phase, fraction: None)
    yield unloaded
    unloaded.close()
