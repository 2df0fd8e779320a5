"""Checkpoints in upstream's format: what is read of them, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest

from kit.errors import EnvironmentNotReady, IntegrityError, UsageError
from kit.serve.megatron.folder import read_folder
from kit.settings import bundled


@pytest.fixture
def folder(make_shards, tmp_path) -> Path:
    return Path(shutil.copytree(make_shards(2), tmp_path / "checkpoint"))


def set_argument(folder: Path, **arguments: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | arguments))


def test_the_bundled_demo_is_one():
    demo = read_folder(bundled("demo"))
    assert [path.name for path in demo.shards] == ["mp_rank_00_model_states.pt"]
    assert demo.tokenizer_model == bundled("demo") / "tokenizer" / "tokenizer.model"
    assert demo.config["num_hidden_layers"] == 4


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_shapes_are_those_of_the_whole_model(make_shards, ranks):
    folder = read_folder(make_shards(ranks))
    assert len(folder.shards) == ranks
    assert folder.end_token_id == 5
    assert folder.parameters == 295296
    shape = folder.shape(2)
    assert (shape.layers, shape.hidden, shape.intermediate, shape.vocabulary) == (4, 64, 128, 2000)
    assert (shape.max_context, shape.window, shape.weights_bytes) == (1024, 256, 590592)


def test_a_shard_stands_for_all(folder):
    assert read_folder(folder / "mp_rank_01_model_states.pt") == read_folder(folder)


def test_the_tokenizer_may_lie_elsewhere(folder, tmp_path):
    model = shutil.move(folder / "tokenizer" / "tokenizer.model", tmp_path / "other.model")
    with pytest.raises(EnvironmentNotReady, match=r"there is no tokenizer\.model near"):
        read_folder(folder)
    assert read_folder(folder, Path(model)).tokenizer_model == tmp_path / "other.model"


def test_a_missing_shard_is_named(folder):
    (folder / "mp_rank_00_model_states.pt").unlink()
    with pytest.raises(EnvironmentNotReady, match="lacks mp_rank_00"):
        read_folder(folder)


def test_nothing_there(tmp_path):
    with pytest.raises(EnvironmentNotReady, match="no checkpoint at"):
        read_folder(tmp_path)


def test_a_converted_directory_is_another_format(make_model):
    with pytest.raises(UsageError, match="reads upstream's own checkpoints") as caught:
        read_folder(make_model())
    assert "kit weights export" in caught.value.hint


def test_another_rotary_base_is_refused(folder):
    set_argument(folder, rope_base=10000)
    with pytest.raises(UsageError, match="rotary base is 10000, upstream's is 1000000"):
        read_folder(folder)


def test_a_configuration_of_another_model_is_refused(folder):
    set_argument(folder, num_layers=5)
    with pytest.raises(IntegrityError, match="num_layers 5, the tensors say 4"):
        read_folder(folder)
