"""Tensors beside the model's own that tell of another code: each has its own sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kit.checkpoint.model import read_model
from kit.errors import IntegrityError


def table(state: Any) -> torch.Tensor:
    found: torch.Tensor = state["module"]["language_model"]["embedding"]["word_embeddings"][
        "weight"
    ]
    return found


@pytest.mark.parametrize("inner", [True, False])
@pytest.mark.parametrize("name", ["output_layer", "lm_head", "word_embeddings_for_head"])
def test_an_output_head(
    make_state: Callable[..., Any], save: Callable[..., Path], name: str, inner: bool
) -> None:
    state = make_state()
    place = state["module"]["language_model"] if inner else state["module"]
    for head in (table(state), table(state).clone()):
        place[name] = {"weight": head}
        assert read_model([save(state)]).dimensions.vocab_size == len(head)
    for head in (table(state) + 1, table(state)[:-1].clone(), table(state).half()):
        place[name] = {"weight": head}
        with pytest.raises(IntegrityError, match=rf"head of its own, .*{name}\.weight"):
            read_model([save(state)])


def test_rotary_frequencies_in_a_layer(
    make_state: Callable[..., Any], save: Callable[..., Path]
) -> None:
    state = make_state()
    encoder = state["module"]["language_model"]["encoder"]
    encoder["layers.0.self_attention.rotary_emb.inv_freq"] = torch.ones(4)
    with pytest.raises(IntegrityError, match=r"rotary frequencies.*rotary_emb\.inv_freq$"):
        read_model([save(state)])
