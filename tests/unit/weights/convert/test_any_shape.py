"""Checkpoints of other shapes than the 13B's: converted, opened in transformers, computed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import kit.models.spark  # noqa: F401  (registers Spark with the Auto classes)
from kit.weights.carry.export import export_upstream
from kit.weights.convert.convert import convert_checkpoint
from kit.weights.convert.verify import prove_conversion
from tests.reference import reference_logits
from tests.shapes import parts

SHAPES = {
    "one-layer": {"layers": 1, "hidden": 48, "heads": 2, "ffn": 100, "vocab": 777, "window": 192},
    "odd-ffn": {"layers": 2, "hidden": 96, "heads": 6, "ffn": 33, "vocab": 64, "window": None},
    "one-head": {"layers": 3, "hidden": 10, "heads": 1, "ffn": 7, "vocab": 411, "window": 113},
    "head-of-2": {"layers": 2, "hidden": 14, "heads": 7, "ffn": 1, "vocab": 101, "window": 256},
    "wide-window": {"layers": 2, "hidden": 32, "heads": 2, "ffn": 48, "vocab": 65, "window": 2048},
}
CONTEXT = 640
TOLERANCE = 1e-4


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def shaped(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tokenizer_model: Path,
    make_state: Callable[..., Any],
) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """A checkpoint's folder with its tokenizer, the state in it, and upstream's arguments."""
    sizes = dict(request.param)
    heads, window = sizes.pop("heads"), sizes.pop("window")
    state = make_state(**sizes)
    encoder, table = parts(state)
    for name, tensor in encoder.items():
        if tensor.dim() == 2:
            tensor.mul_(tensor.shape[1] ** -0.5)
        elif name.endswith("norm.weight"):
            tensor.mul_(0.2).add_(1.0)
    table.mul_(table.shape[1] ** -0.5)
    arguments = {
        "num_layers": sizes["layers"],
        "num_attention_heads": heads,
        "seq_length": CONTEXT,
        "localsize": window,
        "layernorm_epsilon": 1e-6,
        "rope_base": 10000,
    }
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    torch.save(state, folder / "mp_rank_00_model_states.pt")
    (folder / "config.json").write_text(json.dumps(arguments))
    (folder / "tokenizer.model").write_bytes(tokenizer_model.read_bytes())
    return folder, state, arguments


def test_the_logits_are_those_of_the_checkpoint(
    shaped: tuple[Path, dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    folder, state, arguments = shaped
    record = convert_checkpoint(folder, tmp_path / "out", precision="fp32")
    assert prove_conversion(folder, tmp_path / "out") == len(record.tensors)
    vocabulary = parts(state)[1].shape[0]
    ids = torch.randint(0, vocabulary, (CONTEXT,), generator=torch.Generator().manual_seed(4))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.inference_mode():
        found = model(ids[None]).logits[0]
        wanted = reference_logits(state, arguments, ids)
    assert wanted.std() > 0.1
    assert (found - wanted).abs().max() < TOLERANCE


def test_exported_it_is_the_checkpoint_again(
    shaped: tuple[Path, dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    folder, state, _ = shaped
    record = convert_checkpoint(folder, tmp_path / "out", precision="fp32")
    export_upstream(tmp_path / "out", tmp_path / "back")
    found = torch.load(tmp_path / "back" / "mp_rank_00_model_states.pt")
    (encoder, table), (old_encoder, old_table) = parts(found), parts(state)
    assert torch.equal(table, old_table)
    assert encoder.keys() == old_encoder.keys()
    assert all(torch.equal(encoder[name], tensor) for name, tensor in old_encoder.items())
    again = convert_checkpoint(tmp_path / "back", tmp_path / "again", precision="fp32")
    assert (again.tensors, again.support) == (record.tensors, record.support)
