"""`kit weights convert --lora`, `export` and `export-peft`, as processes."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.shapes import lora_state, save_shards

TOKENIZER = Path(__file__).parents[2] / "golden" / "data" / "a" / "tokenizer"


def kit(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "kit", "weights", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def state(make_state: Callable[..., Any]) -> dict[str, Any]:
    return make_state(layers=1, hidden=16, ffn=12, vocab=2000)


@pytest.fixture
def shards(tmp_path: Path, state: dict[str, Any]) -> Path:
    folder = save_shards(state, tmp_path / "shards", 2)
    (folder / "config.json").write_text('{"num_attention_heads": 2}')
    return folder


@pytest.fixture
def lora(tmp_path: Path, state: dict[str, Any]) -> Path:
    return save_shards(lora_state(state, 4), tmp_path / "lora", 1)


def test_shards_with_an_adapter_and_back(shards: Path, lora: Path, tmp_path: Path) -> None:
    convert = ("convert", shards, tmp_path / "out", "--tokenizer", TOKENIZER)
    without = kit(*convert, "--lora", lora)
    assert without.returncode == 2
    assert "alpha is not known" in without.stderr
    assert "--lora-alpha" in without.stderr
    done = kit(*convert, "--lora", lora, "--lora-alpha", 8, "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["lora"]["rank"], record["lora"]["alpha"]) == (4, 8.0)
    assert [source["name"][:10] for source in record["sources"]] == ["mp_rank_00", "mp_rank_01"]

    export = ("export", tmp_path / "out", tmp_path / "back", "--precision", "bf16", "--tp", 2)
    done = kit(*export)
    assert done.returncode == 0, done.stderr
    assert "2 shards" in done.stdout
    found = torch.load(tmp_path / "back" / "mp_rank_01_model_states.pt")
    table = found["module"]["language_model"]["embedding"]["word_embeddings"]["weight"]
    assert (table.shape, table.dtype) == ((1000, 16), torch.bfloat16)
    assert kit(*export).returncode == 0  # nothing is left to do
    other = kit(*export[:-1], 1)
    assert other.returncode == 2
    assert "--overwrite" in other.stderr
    done = kit(*export, "--overwrite", "--json")
    assert json.loads(done.stdout)["nonfinite_count"] == 0
    assert kit("export", tmp_path / "out", tmp_path / "x", "--tp", 3).returncode == 2


def test_an_adapter_for_peft(lora: Path, tmp_path: Path) -> None:
    assert kit("export-peft", lora, tmp_path / "peft").returncode == 2
    done = kit("export-peft", lora, tmp_path / "peft", "--lora-alpha", 8)
    assert done.returncode == 0, done.stderr
    assert "rank 4, alpha 8, down_proj, gate_proj" in done.stdout
    done = kit("export-peft", lora, tmp_path / "peft", "--lora-alpha", 8, "--overwrite", "--json")
    assert json.loads(done.stdout)["rank"] == 4


def test_missing_shards_are_an_integrity_error(shards: Path, tmp_path: Path) -> None:
    (shards / "mp_rank_01_model_states.pt").unlink()
    done = kit("convert", shards, tmp_path / "out", "--tokenizer", TOKENIZER)
    assert done.returncode == 4
    assert "holds 1 of 2 tensor-parallel shards" in done.stderr
