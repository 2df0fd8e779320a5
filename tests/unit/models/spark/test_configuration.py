"""SparkConfig: the 13B by default, and what follows from other fields."""

import pytest

from kit.models.spark import SparkConfig


def test_defaults_are_the_13b():
    config = SparkConfig()
    assert (config.num_hidden_layers, config.hidden_size, config.head_dim) == (40, 5120, 128)
    assert config.num_key_value_heads == config.num_attention_heads == 40
    assert config.rope_parameters["rope_theta"] == 1e6
    assert config.layer_types == ["sliding_attention"] * 40
    assert (config.sliding_window, config.window) == (8192, "block")


@pytest.mark.parametrize(
    ("fields", "layer_type"),
    [
        ({"sliding_window": 192}, "sliding_attention"),
        ({"sliding_window": 200, "window": "exact"}, "sliding_attention"),
        ({"sliding_window": 200}, "full_attention"),  # a block window reaches past 200 keys
        ({"sliding_window": None}, "full_attention"),
    ],
)
def test_caches_forget_only_what_no_query_sees(fields, layer_type):
    assert set(SparkConfig(**fields).layer_types) == {layer_type}


def test_contradictions_are_refused():
    with pytest.raises(ValueError, match="'block' or 'exact'"):
        SparkConfig(window="sliding")
    for heads in (0, 3, 100):
        with pytest.raises(ValueError, match="even parts"):
            SparkConfig(hidden_size=100, num_attention_heads=heads)


@pytest.mark.parametrize(
    ("window", "kind"), [(0, "block"), (112, "block"), (0, "exact"), (-1, "exact")]
)
def test_windows_that_leave_a_query_without_keys_are_refused(window, kind):
    with pytest.raises(ValueError, match="without any key"):
        SparkConfig(sliding_window=window, window=kind)
    SparkConfig(sliding_window=113)
    SparkConfig(sliding_window=1, window="exact")


def test_round_trip(tmp_path):
    config = SparkConfig(window="exact", num_hidden_layers=3)
    config.save_pretrained(tmp_path)
    assert SparkConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
