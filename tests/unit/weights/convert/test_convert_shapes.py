"""Whole conversions of shards, adapters and MindSpore files: records, repeats, errors."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kit.errors import EnvironmentNotReady, IntegrityError, UsageError
from kit.weights.convert.convert import convert_checkpoint
from kit.weights.convert.record import read_record
from kit.weights.digest import has_digest
from tests.shapes import lora_state, merged, mindspore_bytes, mindspore_parameters, save_shards

CHECKPOINT = "mp_rank_00_model_states.pt"


def unexpected(*_: int) -> None:
    raise AssertionError("converted again")


@pytest.fixture
def state(source: Path) -> dict[str, Any]:
    return torch.load(source / CHECKPOINT)


@pytest.fixture
def shards(source: Path, state: dict[str, Any]) -> Path:
    return save_shards(state, source, 4)


@pytest.fixture
def lora(tmp_path: Path, state: dict[str, Any]) -> Path:
    return save_shards(lora_state(state, 2), tmp_path / "lora", 2)


def test_shards_make_the_directory_that_the_whole_file_makes(
    source: Path, state: dict[str, Any], tmp_path: Path
) -> None:
    whole = convert_checkpoint(source, tmp_path / "whole")
    cut = convert_checkpoint(save_shards(state, source, 4), tmp_path / "cut")
    assert cut.tensors == whole.tensors
    assert cut.support == whole.support
    files = sorted(source.glob("*.pt"))
    assert all(
        has_digest(*pair) for pair in zip(files, (s.digest for s in cut.sources), strict=True)
    )
    assert [s.name for s in cut.sources] == [path.name for path in files]


def test_a_second_time_costs_nothing_until_any_shard_changes(
    shards: Path, state: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = convert_checkpoint(shards, out)
    os.utime(shards / "mp_rank_02_model_states.pt", ns=(1, 1))
    assert convert_checkpoint(shards, out, progress=unexpected) == first
    state["module"]["language_model"]["encoder"]["final_layernorm.bias"] += 1
    save_shards(state, shards, 4)
    with pytest.raises(UsageError, match="exists and is not"):
        convert_checkpoint(shards, out)
    save_shards(state, shards, 2)
    for rank in (2, 3):
        (shards / f"mp_rank_{rank:02d}_model_states.pt").unlink()
    convert_checkpoint(shards, out, overwrite=True)
    assert [s.name for s in read_record(out).sources] == [
        f"mp_rank_{rank:02d}_model_states.pt" for rank in range(2)
    ]


def test_missing_ranks_leave_nothing(shards: Path, tmp_path: Path) -> None:
    (shards / "mp_rank_03_model_states.pt").unlink()
    with pytest.raises(IntegrityError, match="3 of 4 tensor-parallel shards"):
        convert_checkpoint(shards, tmp_path / "out")
    (shards / "mp_rank_01_model_states.pt").unlink()
    with pytest.raises(EnvironmentNotReady, match="lacks mp_rank_01"):
        convert_checkpoint(shards, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_a_merged_adapter_is_recorded(
    shards: Path, state: dict[str, Any], lora: Path, tmp_path: Path, expected: Callable[..., Any]
) -> None:
    out = tmp_path / "out"
    record = convert_checkpoint(shards, out, lora=lora, lora_alpha=6, precision="fp32")
    assert read_record(out) == record
    assert (record.lora.rank, record.lora.alpha) == (2, 6.0)
    pairs = zip(sorted(lora.iterdir()), record.lora.sources, strict=True)
    assert all(has_digest(path, source.digest) for path, source in pairs)
    assert len(record.sources) == 4
    found = load_file(out / "model.safetensors")
    wanted = expected(merged(state, lora_state(state, 2), 3.0), torch.float32)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.allclose(found[name], tensor, rtol=1e-5, atol=1e-5), name


def test_conversions_with_another_adapter_are_other_conversions(
    source: Path, lora: Path, state: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = convert_checkpoint(source, out, lora=lora, lora_alpha=6)
    assert convert_checkpoint(source, out, lora=lora, lora_alpha=6, progress=unexpected) == first
    for options in ({}, {"lora": lora, "lora_alpha": 8}):
        with pytest.raises(UsageError, match="exists and is not"):
            convert_checkpoint(source, out, **options)
    other = save_shards(lora_state(state, 1), tmp_path / "other", 1)
    with pytest.raises(UsageError, match=f"with {other}"):
        convert_checkpoint(source, out, lora=other, lora_alpha=6)
    convert_checkpoint(source, tmp_path / "plain")
    with pytest.raises(UsageError, match="exists and is not"):
        convert_checkpoint(source, tmp_path / "plain", lora=lora, lora_alpha=6)


def test_an_adapter_that_does_not_fit_leaves_nothing(
    source: Path, make_state: Callable[..., Any], tmp_path: Path
) -> None:
    other = save_shards(lora_state(make_state(), 2), tmp_path / "other", 1)
    with pytest.raises(IntegrityError, match="adapter is for another model"):
        convert_checkpoint(source, tmp_path / "out", lora=other, lora_alpha=6)
    assert not list(tmp_path.glob("*out*"))


def test_an_adapter_inside_the_output_is_safe(source: Path, lora: Path) -> None:
    with pytest.raises(UsageError, match="inside the output"):
        convert_checkpoint(source, lora, lora=lora, lora_alpha=6, overwrite=True)


def test_a_mindspore_file_makes_the_same_model(
    source: Path, state: dict[str, Any], lora: Path, tmp_path: Path
) -> None:
    whole = convert_checkpoint(source, tmp_path / "whole", lora=lora, lora_alpha=6)
    folder = tmp_path / "mindspore"
    folder.mkdir()
    path = folder / "iflytekspark_13b_chat_fp32.ckpt"
    path.write_bytes(mindspore_bytes(mindspore_parameters(state), max_elements=100))
    shutil.copy(source / "config.json", folder)
    for given in (path, folder):
        record = convert_checkpoint(given, tmp_path / "out", lora=lora, lora_alpha=6)
        assert record.tensors == whole.tensors
        assert record.support == whole.support
        assert [s.name for s in record.sources] == [path.name]
