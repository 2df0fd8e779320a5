import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit.errors import EnvironmentNotReady, IntegrityError, UsageError
from kit.weights.convert.locate import open_adapter
from tests.shapes import lora_state, save_shards


@pytest.fixture
def lora(tmp_path: Path, make_state: Callable[..., Any]) -> Path:
    return save_shards(lora_state(make_state(), 4), tmp_path / "run" / "lora", 1)


def test_alpha_is_given_or_beside_or_above(lora: Path) -> None:
    assert open_adapter(lora, 16)[1] == 16.0
    (lora.parent / "lora_config.json").write_text('{"rank": 4, "alpha": 32, "adapt": ["q"]}')
    assert open_adapter(lora, None)[1] == 32.0
    (lora / "lora_config.json").write_text('{"alpha": 64.5}')
    adapter, alpha = open_adapter(lora / "mp_rank_00_model_states.pt", None)
    assert (adapter.rank, alpha) == (4, 64.5)
    assert open_adapter(lora, 8)[1] == 8.0


def test_without_alpha_the_error_says_where_to_give_it(lora: Path) -> None:
    with pytest.raises(UsageError, match="alpha is not known") as caught:
        open_adapter(lora, None)
    assert "--lora-alpha" in caught.value.hint
    assert '"rank": 4' in caught.value.hint


@pytest.mark.parametrize("alpha", [0, -1, float("nan"), float("inf"), "32", [1], True])
def test_alphas_that_are_none(lora: Path, alpha: Any) -> None:
    (lora / "lora_config.json").write_text(json.dumps({"alpha": alpha}))
    with pytest.raises(UsageError, match="alpha cannot be"):
        open_adapter(lora, None)


def test_a_configuration_of_another_adapter(lora: Path) -> None:
    (lora / "lora_config.json").write_text('{"rank": 8, "alpha": 32}')
    with pytest.raises(IntegrityError, match="says rank 8, the tensors say 4"):
        open_adapter(lora, 32)


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_damaged_configurations(lora: Path, content: str) -> None:
    (lora / "lora_config.json").write_text(content)
    with pytest.raises(UsageError, match=r"lora_config\.json"):
        open_adapter(lora, None)


def test_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentNotReady, match="no checkpoint at"):
        open_adapter(tmp_path / "missing", 1)
