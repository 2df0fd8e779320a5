"""Engines that promise the same: the server tests' fake, the native and the megatron one.

The megatron engine runs twice: on the stand-in for upstream, and on the real one where
KIT_UPSTREAM_DIR names it.
"""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "serve"))  # for serve_fakes

from serve_fakes import FakeEngine

from kit.serve.engine import Engine
from kit.serve.megatron.engine import MegatronEngine
from kit.serve.megatron.folder import read_folder
from kit.serve.native.engine import NativeEngine
from kit.weights.convert.convert import convert_checkpoint
from tests.stand_in_megatron import TREE
from tests.upstream_real import rewritten_tree

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


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model in upstream's format."""
    folder = Path(shutil.copytree(GOLDEN / "ckpt", tmp_path_factory.mktemp("contract") / "ckpt"))
    shutil.copy(GOLDEN / "config.json", folder)
    shutil.copy(GOLDEN / "tokenizer" / "tokenizer.model", folder)
    return folder


@pytest.fixture(scope="session")
def real_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rewritten_tree(tmp_path_factory.mktemp("upstream"))


@pytest.fixture(scope="module", params=["fake", "native", "megatron, stand-in", "megatron"])
def make(request: pytest.FixtureRequest) -> Callable[[], Engine]:
    """Makes engines of one kind; nothing is loaded."""
    value = request.getfixturevalue
    if request.param == "fake":
        return lambda: FakeEngine("x" * 250)
    if request.param == "native":
        torch.set_num_threads(1)
        return lambda: NativeEngine(value("model_dir"), device="cpu", max_sequences=2)
    tree = TREE if request.param == "megatron, stand-in" else value("real_tree")
    folder = read_folder(value("checkpoint"))
    return lambda: MegatronEngine(folder, tree, device="cpu", dtype="float32")


@pytest.fixture
def unloaded(make: Callable[[], Engine]) -> Engine:
    return make()


@pytest.fixture
def fresh(unloaded: Engine) -> Iterator[Engine]:
    """A loaded engine that has generated nothing, for tests that count, or close it."""
    unloaded.load(lambda phase, fraction: None)
    yield unloaded
    unloaded.close()


@pytest.fixture(scope="module")
def engine(make: Callable[[], Engine]) -> Iterator[Engine]:
    """A loaded engine that the tests of a module share."""
    shared = make()
    shared.load(lambda phase, fraction: None)
    yield shared
    shared.close()
