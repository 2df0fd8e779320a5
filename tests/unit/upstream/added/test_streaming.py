"""Weights that come one by one into a model without any."""

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

pytest.importorskip("deepspeed", reason="deepspeed is not installed")

from kit.upstream.added import streaming
from kit.upstream.added.streaming import empty_weights, open_weights, stream_weights


class RotaryEmbedding(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.inv_freq_float = 1.0 / 10 ** (torch.arange(0, dim, 2).float() / dim)
        self.register_buffer("inv_freq", self.inv_freq_float)


class Model(nn.Module):
    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.language_model = nn.Module()
        self.language_model.encoder = nn.Module()
        self.language_model.encoder.dense = nn.Linear(300, 200, dtype=dtype)
        self.language_model.encoder.dense.weight.partition_dim = 1
        self.language_model.rotary = RotaryEmbedding(8)


def checkpoint(path, **tensors):
    encoder = {"dense.weight": torch.randn(200, 300), "dense.bias": torch.randn(200)} | tensors
    encoder = {name: tensor for name, tensor in encoder.items() if tensor is not None}
    torch.save({"module": {"language_model": {"encoder": encoder}}}, path)
    return encoder


UPSTREAM = {
    "from_pretrained": "ckpt",
    "deepspeed": False,
    "no_pipeline_parallel": False,
    "zero_stage": 1,
}
BEFORE = {"use_cpu_initialization": False}


def empty(dtype=torch.float32, **given):
    args, config = Namespace(**UPSTREAM | BEFORE | given), SimpleNamespace(**BEFORE)
    with empty_weights(args, config):
        model = Model(dtype)
        inside = vars(config).copy()
    assert vars(config) == BEFORE  # for what is made later
    assert vars(args) == UPSTREAM | BEFORE | given
    is_empty = all(parameter.is_meta for parameter in model.parameters())
    assert inside == {"use_cpu_initialization": is_empty}
    return model


@pytest.mark.parametrize(
    ("given", "is_empty"),
    [
        ({}, True),
        ({"deepspeed": True, "no_pipeline_parallel": True}, True),
        ({"deepspeed": True}, False),  # a pipeline
        ({"zero_stage": 3}, False),
        ({"from_pretrained": None}, False),
    ],
)
def test_weights_are_left_out_only_where_they_will_come(given, is_empty):
    assert next(empty(**given).parameters()).is_meta == is_empty


def test_a_model_with_weights_is_filled_as_upstream_fills_it():
    model, given = Model(), {}
    model.load_state_dict = given.update
    stream_weights(model, {"language_model": 1})
    assert given == {"language_model": 1}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_weight_arrives_cast(tmp_path, dtype, monkeypatch):
    monkeypatch.setattr("kit.upstream.added.streaming.PIECE_BYTES", 4096)
    saved = checkpoint(tmp_path / "shard.pt")
    model = empty(dtype)
    stream_weights(model, open_weights(str(tmp_path / "shard.pt"))["module"])
    dense = model.language_model.encoder.dense
    assert torch.equal(dense.weight, saved["dense.weight"].to(dtype))
    assert torch.equal(dense.bias, saved["dense.bias"].to(dtype))
    assert dense.weight.partition_dim == 1
    rotary = model.language_model.rotary
    assert torch.equal(rotary.inv_freq_float, RotaryEmbedding(8).inv_freq_float)
    assert torch.equal(rotary.inv_freq, rotary.inv_freq_float)


@pytest.mark.parametrize(("dtype", "mapped"), [(torch.float32, True), (torch.bfloat16, False)])
def test_the_file_stays_mapped_only_where_it_is_used(tmp_path, dtype, mapped):
    """After a cast no page of the file is left here; without one no other memory is taken."""
    layer = nn.Linear(4000, 4000, bias=False, dtype=dtype, device="meta")
    torch.save({"weight": torch.ones(4000, 4000)}, tmp_path / "shard.pt")
    state = open_weights(str(tmp_path / "shard.pt"))
    stream_weights(layer, state)
    del state
    assert layer.weight.sum() == 16e6
    text = Path("/proc/self/smaps").read_text().split(str(tmp_path / "shard.pt"))
    resident = [1024 * int(each.split("Rss:")[1].split()[0]) for each in text[1:]]
    assert sum(resident) >= 64e6 if mapped else sum(resident) < 2**20


def test_progress_is_told(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(streaming, "progress", told.append)
    checkpoint(tmp_path / "shard.pt")
    stream_weights(empty(), open_weights(str(tmp_path / "shard.pt"))["module"])
    assert told == sorted(told)
    assert told[-1] == 1.0


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"dense.bias": None}, r"1 tensors are missing \(language_model.encoder.dense.bias\)"),
        ({"other": torch.ones(1)}, r"1 are left over \(language_model.encoder.other\)"),
        ({"dense.bias": torch.ones(7)}, r"dense.bias is \[7\], expected \[200\]"),
        ({"dense.bias": torch.ones(200).to(torch.int8)}, r"dense.bias is torch.int8"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, tensors, message):
    checkpoint(tmp_path / "shard.pt", **tensors)
    state = open_weights(str(tmp_path / "shard.pt"))["module"]
    with pytest.raises(RuntimeError, match=message):
        stream_weights(empty(), state)


def test_a_tensor_that_nobody_fills_is_named(tmp_path):
    checkpoint(tmp_path / "shard.pt")
    model = empty()
    model.register_buffer("forgotten", torch.empty(1, device="meta"))
    with pytest.raises(RuntimeError, match="such as forgotten"):
        stream_weights(model, open_weights(str(tmp_path / "shard.pt"))["module"])
