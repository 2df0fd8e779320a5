import json
from pathlib import Path
from typing import Any

import pytest

from kit.errors import IntegrityError
from kit.serve.defaults import GenerationDefaults, read_defaults


def defaults_of(directory: Path, config: Any) -> GenerationDefaults:
    (directory / "generation_config.json").write_text(json.dumps(config))
    return read_defaults(directory)


def test_without_a_file_they_are_upstreams(tmp_path: Path) -> None:
    upstream = GenerationDefaults(
        temperature=0.0,
        top_k=0,
        top_p=1.0,
        presence_penalty=1.1,
        frequency_penalty=0.1,
        min_tokens=1,
    )
    assert read_defaults(tmp_path) == upstream
    assert defaults_of(tmp_path, {}) == upstream


def test_the_file_counts(tmp_path: Path) -> None:
    config = {"presence_penalty": 0.5, "frequency_penalty": 0, "min_new_tokens": 3}
    found = defaults_of(tmp_path, config)
    assert (found.presence_penalty, found.frequency_penalty, found.min_tokens) == (0.5, 0.0, 3)


def test_temperature_counts_only_where_the_model_samples(tmp_path: Path) -> None:
    settings = {"temperature": 0.7, "top_k": 40, "top_p": 0.9}
    assert defaults_of(tmp_path, settings) == GenerationDefaults()
    found = defaults_of(tmp_path, settings | {"do_sample": True})
    assert (found.temperature, found.top_k, found.top_p) == (0.7, 40, 0.9)
    assert defaults_of(tmp_path, {"do_sample": True}).temperature == 1.0


@pytest.mark.parametrize("content", ["{", "[]", '{"presence_penalty": "much"}', "\x00"])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(IntegrityError, match=r"generation_config\.json"):
        read_defaults(tmp_path)
