"""Checkpoints in upstream's format, of the golden model, in any number of shards."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.shapes import parts, save_shards

GOLDEN = Path(__file__).parents[3] / "golden" / "data" / "a"
CHECKPOINT = GOLDEN / "ckpt" / "mp_rank_00_model_states.pt"
MakeShards = Callable[[int], Path]


@pytest.fixture(scope="session")
def table() -> torch.Tensor:
    """The embedding table, fp32 ``[vocab, hidden]``."""
    return parts(torch.load(CHECKPOINT))[1]


@pytest.fixture(scope="session")
def make_shards(tmp_path_factory: pytest.TempPathFactory) -> MakeShards:
    """``make_shards(ranks)``: a folder of shards with configuration and tokenizer."""
    made: dict[int, Path] = {}

    def make(ranks: int) -> Path:
        if ranks not in made:
            folder = tmp_path_factory.mktemp(f"tp{ranks}")
            save_shards(torch.load(CHECKPOINT), folder, ranks)
            shutil.copy(GOLDEN / "config.json", folder)
            shutil.copytree(GOLDEN / "tokenizer", folder / "tokenizer")
            made[ranks] = folder
        return made[ranks]

    return make
