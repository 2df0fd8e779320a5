import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from kit.checkpoint.compare import compare, nearest_bfloat16
from kit.checkpoint.convert import Conversion, convert_tensors
from kit.checkpoint.model import read_model
from kit.errors import IntegrityError

GATE = "model.layers.1.mlp.gate_proj.weight"
DType = Literal["bfloat16", "float32"]


@given(st.lists(st.floats(width=32, allow_nan=False)))
def test_rounds_as_torch(values: list[float]) -> None:
    array = np.array(values, np.float32)
    expected = torch.from_numpy(array).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(nearest_bfloat16(array), expected)


@pytest.fixture(params=["float32", "float16", "bfloat16"])
def source(save: Callable[..., Path], make_state: Callable[..., Any], request: Any) -> Path:
    state = make_state(dtype=getattr(torch, request.param))
    weight = state["module"]["language_model"]["encoder"]["layers.1.mlp.dense_h_to_4h.weight"]
    weight[1, 2], weight[2, 0], weight[3, 1] = float("nan"), float("inf"), -0.0
    if request.param == "float32":
        weight[3, 2] = 3.4e38  # infinite as bfloat16
    return save(state)


def converted(source: Path, out: Path, dtype: DType, **options: Any) -> Path:
    model = read_model([source])
    convert_tensors(Conversion(model.files, model.mappings, dtype), out, **options)
    return out


def prove(source: Path, out: Path, dtype: DType) -> int:
    model = read_model([source])
    return compare(model.files, model.mappings, out, dtype, chunk_bytes=100)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_conversion_equals_its_source(source: Path, tmp_path: Path, dtype: DType) -> None:
    out = converted(source, tmp_path / "out", dtype, max_shard_bytes=2000)
    assert prove(source, out, dtype) == len(
        json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_one_bit_of_any_tensor(source: Path, tmp_path: Path, dtype: DType) -> None:
    out = converted(source, tmp_path / "out", dtype)
    path = out / "model.safetensors"
    intact = load_file(path)
    for name, tensor in intact.items():
        changed = {key: value.clone() for key, value in intact.items()}
        place = tensor.numel() * 2 // 3
        changed[name].view(-1).view(torch.uint8)[place * tensor.itemsize] ^= 1
        save_file(changed, path)
        with pytest.raises(IntegrityError) as caught:
            prove(source, out, dtype)
        row, column = divmod(place, tensor.shape[1] if tensor.dim() == 2 else 1)
        assert f"{name} differs from its source at row {row}, column {column}" in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tensors: tensors.pop(GATE), f"lacks 1 tensors, the first is {GATE}"),
        (lambda tensors: tensors.update(more=tensors[GATE].clone()), "beyond the source, 1 tensor"),
        (
            lambda tensors: tensors.update({GATE: tensors[GATE].flatten()}),
            "is bfloat16 .* instead of bfloat16",
        ),
        (lambda tensors: tensors.update({GATE: tensors[GATE].float()}), "is float32"),
    ],
)
def test_other_tensors(
    save: Callable[..., Path],
    make_state: Callable[..., Any],
    tmp_path: Path,
    damage: Callable[[dict[str, torch.Tensor]], None],
    message: str,
) -> None:
    source = save(make_state())
    path = converted(source, tmp_path / "out", "bfloat16") / "model.safetensors"
    tensors = load_file(path)
    damage(tensors)
    save_file(tensors, path)
    with pytest.raises(IntegrityError, match=message):
        prove(source, path.parent, "bfloat16")


def test_a_source_that_is_another(
    save: Callable[..., Path], make_state: Callable[..., Any], tmp_path: Path
) -> None:
    out = converted(save(make_state()), tmp_path / "out", "bfloat16")
    state = make_state()
    state["module"]["language_model"]["encoder"]["final_layernorm.bias"][2] *= 1.01
    with pytest.raises(IntegrityError, match=r"model.norm.bias differs .* row 2"):
        prove(save(state, "other"), out, "bfloat16")
