import json
from pathlib import Path
from typing import Any

import pytest

from kit.checkpoint.layout import Dimensions
from kit.errors import IntegrityError, UsageError
from kit.weights.convert.facts import find_arguments, model_config, read_arguments

SPARK_13B = Dimensions(layers=40, hidden_size=5120, ffn_size=14336, vocab_size=60000)
TINY = Dimensions(layers=4, hidden_size=64, ffn_size=128, vocab_size=2000)


def test_the_13b_needs_no_configuration() -> None:
    assert model_config(SPARK_13B, "bfloat16", {}) == {
        "hidden_size": 5120,
        "num_hidden_layers": 40,
        "intermediate_size": 14336,
        "vocab_size": 60000,
        "num_attention_heads": 40,
        "max_position_embeddings": 32768,
        "sliding_window": 8192,
        "layer_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "dtype": "bfloat16",
    }


def test_upstreams_arguments_are_used_and_others_ignored() -> None:
    arguments = {
        "num_layers": 4,
        "hidden_size": 64,
        "ffn_hidden_size": 128,
        "vocab_size": 2000,
        "num_attention_heads": 4,
        "seq_length": 1024,
        "max_position_embeddings": 2048,
        "localsize": 256,
        "layernorm_epsilon": 1e-6,
        "rope_base": 10000,
        "name": "x",
    }
    config = model_config(TINY, "float32", arguments)
    assert config["num_attention_heads"] == 4
    assert config["max_position_embeddings"] == 1024
    assert config["sliding_window"] == 256
    assert config["layer_norm_eps"] == 1e-6
    assert config["rope_theta"] == 10000.0
    assert config["dtype"] == "float32"


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [
        ({"localsize": 0}, "sliding_window", None),
        ({"localsize": None}, "sliding_window", None),
        ({"seq_length": 65536}, "max_position_embeddings", 65536),
        ({"max_position_embeddings": 4096}, "max_position_embeddings", 4096),
    ],
)
def test_single_arguments(arguments: dict[str, Any], key: str, value: object) -> None:
    assert model_config(SPARK_13B, "bfloat16", arguments)[key] == value


@pytest.mark.parametrize("name", ["num_layers", "hidden_size", "ffn_hidden_size", "vocab_size"])
def test_a_contradiction_names_both_values(name: str) -> None:
    with pytest.raises(IntegrityError, match=rf"says {name} 28672, the tensors say \d+"):
        model_config(SPARK_13B, "bfloat16", {name: 28672})


def test_heads_argument_wins() -> None:
    told = model_config(TINY, "bfloat16", {"num_attention_heads": 4}, num_heads=8)
    assert told["num_attention_heads"] == 8


def test_unknown_heads() -> None:
    with pytest.raises(UsageError, match="heads is unknown") as caught:
        model_config(TINY, "bfloat16", {})
    assert "num_attention_heads" in caught.value.hint


@pytest.mark.parametrize("heads", [5, 64])
def test_heads_that_do_not_divide(heads: int) -> None:
    with pytest.raises(UsageError, match=f"{heads} attention heads do not cut"):
        model_config(TINY, "bfloat16", {}, num_heads=heads)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_attention_heads", "forty"),
        ("num_attention_heads", 0),
        ("seq_length", 1.5),
        ("seq_length", True),
        ("localsize", -1),
        ("localsize", 112),
        ("layernorm_epsilon", "1e-5"),
        ("rope_base", 0),
    ],
)
def test_values_of_the_wrong_kind_are_named(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=name):
        model_config(SPARK_13B, "bfloat16", {name: value})


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_files_that_are_no_configuration(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"config\.json"):
        read_arguments(path)


def test_a_configuration_is_read(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"num_layers": 3}))
    assert read_arguments(tmp_path / "c.json") == {"num_layers": 3}
    with pytest.raises(UsageError, match="cannot read"):
        read_arguments(tmp_path / "other.json")


def test_arguments_are_found_near_the_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "ckpt"
    folder.mkdir()
    checkpoint = folder / "x.pt"
    assert find_arguments(None, checkpoint) == {}
    for unrelated in ("{", '{"model_type": "other"}'):
        (tmp_path / "config.json").write_text(unrelated)
        assert find_arguments(None, checkpoint) == {}
    (tmp_path / "config.json").write_text('{"num_layers": 3}')
    assert find_arguments(None, checkpoint) == {"num_layers": 3}
    (folder / "config.json").write_text('{"num_layers": 4}')
    assert find_arguments(None, checkpoint) == {"num_layers": 4}
    (tmp_path / "given.json").write_text('{"num_layers": 5}')
    assert find_arguments(tmp_path / "given.json", checkpoint) == {"num_layers": 5}
