"""Directories of less than 16 bits: their configuration, and that other tools open them.

The layout itself is tested on literals beside ``kit.checkpoint.encoding``. Where the
compressed-tensors library is installed, it is asked, too.
"""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kit.checkpoint.layout import Dimensions
from kit.errors import UsageError
from kit.weights.convert.convert import convert_checkpoint
from kit.weights.convert.facts import quantization_config
from kit.weights.convert.record import Precision

SPARK_13B = Dimensions(40, 5120, 14336, 60000)
QUANTISED: tuple[Precision, ...] = ("int8", "int4")
needs_library = pytest.mark.skipif(
    importlib.util.find_spec("compressed_tensors") is None,
    reason="compressed-tensors is not installed",
)


@pytest.fixture
def wide_source(tmp_path: Path, source: Path, make_state: Callable[..., Any]) -> Path:
    """A checkpoint whose widths are multiples of 32."""
    state = make_state(layers=2, hidden=32, ffn=64, vocab=64)
    torch.save(state, source / "mp_rank_00_model_states.pt")
    return source


def config_of(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "config.json").read_bytes())


def test_of_floats_nothing_is_said() -> None:
    assert quantization_config(SPARK_13B, "bfloat16") is None
    assert quantization_config(SPARK_13B, "float32") is None


def test_int8_is_by_row_and_int4_by_groups_of_the_model() -> None:
    int8, int4 = (quantization_config(SPARK_13B, dtype) for dtype in QUANTISED)
    assert int8 and int4
    assert int8["config_groups"]["group_0"]["weights"]["strategy"] == "channel"
    assert int4["config_groups"]["group_0"]["weights"] == {
        "type": "int",
        "symmetric": True,
        "dynamic": False,
        "num_bits": 4,
        "strategy": "group",
        "group_size": 128,
    }


@pytest.mark.parametrize("precision", QUANTISED)
def test_config_says_so_and_numbers_are_bfloat16(
    wide_source: Path, tmp_path: Path, precision: Precision
) -> None:
    convert_checkpoint(wide_source, tmp_path / "out", precision=precision)
    config = config_of(tmp_path / "out")
    assert config["dtype"] == "bfloat16"
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"


@pytest.mark.parametrize("precision", QUANTISED)
def test_the_same_call_again_does_nothing(
    wide_source: Path, tmp_path: Path, precision: Precision
) -> None:
    out = tmp_path / "out"
    record = convert_checkpoint(wide_source, out, precision=precision)
    assert record.precision == precision
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert convert_checkpoint(wide_source, out, precision=precision) == record
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_another_precision_does_not_replace_it_unasked(wide_source: Path, tmp_path: Path) -> None:
    convert_checkpoint(wide_source, tmp_path / "out", precision="int8")
    with pytest.raises(UsageError, match="int4 conversion"):
        convert_checkpoint(wide_source, tmp_path / "out", precision="int4")
    convert_checkpoint(wide_source, tmp_path / "out", precision="int4", overwrite=True)
    names = load_file(tmp_path / "out" / "model.safetensors")
    assert "model.layers.0.mlp.up_proj.weight_packed" in names


def test_narrow_models_are_refused_before_the_output_is_touched(
    source: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"widths \[16, 24\]"):
        convert_checkpoint(source, tmp_path / "out", precision="int4")
    assert not (tmp_path / "out").exists()


@needs_library
@pytest.mark.parametrize("precision", QUANTISED)
def test_transformers_opens_it_and_sees_our_numbers(
    wide_source: Path, tmp_path: Path, precision: Precision
) -> None:
    from transformers import AutoModelForCausalLM

    out = tmp_path / "out"
    convert_checkpoint(wide_source, out, precision=precision)
    model = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True)
    with torch.inference_mode():
        assert model(input_ids=torch.arange(5, 40)[None]).logits.isfinite().all()
    theirs = model.state_dict()
    ours = load_file(out / "model.safetensors")
    matrices = [name for name in theirs if name.endswith("_proj.weight")]
    assert len(matrices) == 14
    for name in matrices:
        scales = ours[f"{name}_scale"]
        if precision == "int8":
            q = ours[name]
        else:
            words = ours[f"{name}_packed"]
            q = torch.stack([(words >> shift & 15) - 8 for shift in range(0, 32, 4)], -1).flatten(1)
        steps = scales.repeat_interleave(q.shape[1] // scales.shape[1], dim=1)
        assert torch.equal(theirs[name], q.to(torch.bfloat16) * steps), name


@needs_library
def test_the_library_packs_the_same_way(wide_source: Path, tmp_path: Path) -> None:
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
    from compressed_tensors.quantization import QuantizationConfig

    convert_checkpoint(wide_source, tmp_path / "out", precision="int4")
    QuantizationConfig.model_validate(config_of(tmp_path / "out")["quantization_config"])
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    name = "model.layers.1.self_attn.k_proj.weight"
    q = unpack_from_int32(tensors[f"{name}_packed"], 4, torch.Size(tensors[f"{name}_shape"]))
    weight = load_file(_floats(wide_source, tmp_path) / "model.safetensors")[name]
    steps = tensors[f"{name}_scale"].float()
    assert ((q.float() * steps - weight).abs() <= 2 * steps.abs()).all()


def _floats(source: Path, tmp_path: Path) -> Path:
    convert_checkpoint(source, tmp_path / "floats", precision="fp32")
    return tmp_path / "floats"
