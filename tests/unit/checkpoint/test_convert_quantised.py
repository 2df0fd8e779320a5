"""Whole conversions to int8 and int4."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from blake3 import blake3
from safetensors.torch import load_file

from kit.checkpoint.convert import Conversion, Converted, convert_tensors
from kit.checkpoint.encoding import STORED_ITEM_BYTES, OutputDType
from kit.checkpoint.journal import JOURNAL_NAME
from kit.checkpoint.model import read_model
from kit.errors import UsageError

SIZES = {"layers": 2, "hidden": 32, "ffn": 64, "vocab": 11}


def convert(path: Path, directory: Path, dtype: OutputDType, **options: Any) -> Converted:
    model = read_model([path])
    return convert_tensors(Conversion(model.files, model.mappings, dtype), directory, **options)


def load(directory: Path) -> dict[str, torch.Tensor]:
    files = sorted(directory.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def dequantised(tensors: dict[str, torch.Tensor], name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights in fp32, and the step of each of them."""
    scales = tensors.pop(f"{name}_scale").float()
    if name in tensors:
        q = tensors.pop(name).float()
    else:
        rows, columns = tensors.pop(f"{name}_shape").tolist()
        words = tensors.pop(f"{name}_packed")
        q = torch.stack([(words >> shift & 15) - 8 for shift in range(0, 32, 4)], -1)
        q = q.reshape(rows, columns).float()
    steps = scales.repeat_interleave(q.shape[1] // scales.shape[1], dim=1)
    return q * steps, steps.abs()


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("source", [torch.float32, torch.bfloat16, torch.float16])
def test_matrices_are_near_the_source_and_all_else_is_bfloat16(
    save: Any, make_state: Any, expected: Any, tmp_path: Path, dtype: Any, source: torch.dtype
) -> None:
    path = save(make_state(**SIZES, dtype=source))
    result = convert(path, tmp_path / "out", dtype)
    found = load(tmp_path / "out")
    for name, tensor in found.items():
        raw = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        assert result.tensors[name] == blake3(raw).hexdigest()
    assert result.nonfinite == {}
    floats = expected(torch.load(path), torch.bfloat16)
    for name, tensor in expected(torch.load(path), torch.float32).items():
        if name.endswith("_proj.weight"):
            values, steps = dequantised(found, name)
            assert ((values - tensor).abs() <= 2 * steps).all()
            assert ((values - tensor).abs() <= 0.51 * steps).float().mean() > 0.9
        else:
            assert torch.equal(found.pop(name), floats[name])
    assert not found


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_no_bit_depends_on_chunks_or_shards(
    save: Any, make_state: Any, tmp_path: Path, dtype: Any
) -> None:
    path = save(make_state(**SIZES))
    whole = convert(path, tmp_path / "whole", dtype)
    pieces = convert(path, tmp_path / "pieces", dtype, chunk_bytes=300, max_shard_bytes=4000)
    assert len(pieces.files) > 3
    assert pieces.tensors == whole.tensors


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_every_tensor_is_aligned(save: Any, make_state: Any, tmp_path: Path, dtype: Any) -> None:
    """torch cannot see bytes as wider elements from anywhere."""
    convert(save(make_state(**SIZES | {"vocab": 7})), tmp_path / "out", dtype)
    raw = (tmp_path / "out" / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    del header["__metadata__"]
    assert {entry["dtype"] for entry in header.values()} >= {"BF16"}
    for name, entry in header.items():
        assert (8 + length + entry["data_offsets"][0]) % STORED_ITEM_BYTES[entry["dtype"]] == 0, (
            name
        )


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_goes_on_behind_the_last_finished_shard(
    save: Any, make_state: Callable[..., Any], tmp_path: Path, dtype: Any
) -> None:
    path = save(make_state(**SIZES))
    whole = convert(path, tmp_path / "whole", dtype, max_shard_bytes=4000)

    def stop(done_bytes: int, total_bytes: int) -> None:
        if done_bytes > total_bytes / 2:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    options = {"max_shard_bytes": 4000, "chunk_bytes": 4096}
    with pytest.raises(KeyboardInterrupt):
        convert(path, out, dtype, progress=stop, **options)
    finished = json.loads((out / JOURNAL_NAME).read_bytes())["shards"]
    assert finished
    before = {name: (out / name).stat().st_mtime_ns for name in finished}
    assert convert(path, out, dtype, **options) == whole
    assert {name: (out / name).stat().st_mtime_ns for name in finished} == before


def test_another_type_starts_over(save: Any, make_state: Any, tmp_path: Path) -> None:
    path = save(make_state(**SIZES))
    convert(path, tmp_path / "out", "int8")
    again = convert(path, tmp_path / "out", "int4")
    assert again == convert(path, tmp_path / "fresh", "int4")


def test_infinite_weights_are_counted(save: Any, make_state: Any, tmp_path: Path) -> None:
    state = make_state(**SIZES)
    encoder = state["module"]["language_model"]["encoder"]
    encoder["layers.1.self_attention.dense.weight"][3, 4] = float("inf")
    found = convert(save(state), tmp_path / "out", "int4").nonfinite
    assert found == {"model.layers.1.self_attn.o_proj.weight": 1}


def test_widths_without_a_group_are_refused_before_anything_is_made(
    save: Any, make_state: Any, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"widths \[32, 48\]"):
        convert(save(make_state(**SIZES | {"ffn": 48})), tmp_path / "out", "int4")
    assert not (tmp_path / "out").exists()
