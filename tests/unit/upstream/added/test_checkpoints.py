"""Checkpoints of a training: their tensors, and nothing that they would have executed."""

import datetime
import os
import pickle
import zipfile
from argparse import Namespace
from collections import OrderedDict, deque
from pathlib import Path

import numpy as np
import pytest
import torch

from kit.proof.simulate.files import write_checkpoint
from kit.upstream.added.checkpoints import Unread, load_tensors
from kit.weights.catalogue import read_catalogue
from kit.weights.convert.locate import CHECKPOINT_NAME
from kit.weights.planned import published


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def training(**more):
    """What a training may leave beside the weights."""
    return {
        "args": Namespace(save=Path("/ckpt"), started=datetime.datetime(2024, 1, 1)),
        "rng_state": [{"np": np.random.get_state(), "torch": torch.get_rng_state()}],
        "optimizer": {"state": deque([OrderedDict(a={1, 2})])},
        "size": torch.Size([2, 3]),
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        **more,
    }


@pytest.mark.parametrize("mapped", [True, False])
def test_tensors_of_a_training_are_read(tmp_path, mapped):
    weights = {
        "a": torch.randn(3, 4),
        "b": torch.randn(5).bfloat16(),
        "c": torch.nn.Parameter(torch.randn(2)),
        "d": torch.arange(3).to(torch.uint16),
    }
    torch.save(training(module=OrderedDict(weights)), tmp_path / "shard.pt")
    found = load_tensors(str(tmp_path / "shard.pt"), "cuda:0", mapped=mapped)
    assert found["module"].keys() == weights.keys()
    for name, tensor in weights.items():
        assert torch.equal(found["module"][name], tensor)
        assert found["module"][name].dtype == tensor.dtype
    assert found["size"] == torch.Size([2, 3])
    assert found["dtype"] == torch.bfloat16
    assert isinstance(found["args"], Unread)
    assert isinstance(found["optimizer"]["state"], Unread)


def test_nothing_of_a_files_choice_is_called(tmp_path):
    target = tmp_path / "made"
    torch.save(training(bomb=Bomb(str(target)), module={}), tmp_path / "shard.pt")
    assert isinstance(load_tensors(str(tmp_path / "shard.pt"))["bomb"], Unread)
    assert not target.exists()


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_is_read_alike(tmp_path, protocol):
    target = tmp_path / "made"
    content = training(bomb=Bomb(str(target)), module={"a": torch.ones(2)})
    torch.save(content, tmp_path / "shard.pt", pickle_protocol=protocol)
    assert torch.equal(load_tensors(str(tmp_path / "shard.pt"))["module"]["a"], torch.ones(2))
    assert not target.exists()


def test_what_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "shard.pt"
    torch.save(torch.ones(1), path)
    with pytest.raises(RuntimeError, match="holds a Tensor"):
        load_tensors(str(path))
    path.write_bytes(pickle.dumps({"module": Bomb(str(tmp_path / "made"))}))
    with pytest.raises(RuntimeError, match="not a checkpoint that torch"):
        load_tensors(str(path))
    with zipfile.ZipFile(path, "w") as program:
        program.writestr("shard/constants.pkl", b"")
    with pytest.raises(RuntimeError, match="a TorchScript program"):
        load_tensors(str(path))
    assert not (tmp_path / "made").exists()


def test_a_file_larger_than_the_machines_memory_is_mapped(tmp_path):
    """53 GB of holes; mapped as torch does it, a machine with less RAM refuses."""
    write_checkpoint(tmp_path / "checkpoint", published(read_catalogue()))
    path = str(tmp_path / "checkpoint" / CHECKPOINT_NAME)
    table = word_embeddings(path)
    assert table.shape == (60000, 5120)
    table[0, 0] = 1  # it may be written to, which the file does not notice
    assert word_embeddings(path)[0, 0].item() == 0


def word_embeddings(path):
    return load_tensors(path)["module"]["language_model"]["embedding"]["word_embeddings"]["weight"]
