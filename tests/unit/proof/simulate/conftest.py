"""Small models to simulate, and upstream's stand-in without code that looks at values."""

import shutil
from pathlib import Path

import pytest

from kit.checkpoint.layout import Dimensions
from kit.memory.plan.shape import Architecture
from tests.stand_in_megatron import TREE

_MODEL = '''"""Scores = rows x table, beside a cache of the context. No value is looked at."""

import torch


class Decaying(torch.nn.Module):
    def __init__(self, rows):
        super().__init__()
        self.rows = torch.nn.Parameter(rows, requires_grad=False)

    def forward(self, tokens, position_ids, attention_mask, inference_params):
        if 0 not in inference_params.key_value_memory_dict:
            shape = (inference_params.max_sequence_len, self.rows.shape[1])
            inference_params.key_value_memory_dict[0] = self.rows.new_zeros(shape)
        return (self.rows[tokens[0]].float() @ self.rows.float().T)[None]
'''


@pytest.fixture(scope="session")
def small() -> Architecture:
    return Architecture(Dimensions(2, 256, 512, 8000), max_context=2048, window=512, heads=2)


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    shutil.copytree(TREE, tree, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "megatron" / "model.py").write_text(_MODEL, encoding="utf-8")
    return tree
