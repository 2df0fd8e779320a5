"""Builds the model."""

from collections.abc import Callable

import torch


def get_model(
    model_provider: Callable[[], torch.nn.Module], wrap_with_ddp: bool
) -> list[torch.nn.Module]:
    """A list of one, as upstream without pipeline parallelism."""
    assert not wrap_with_ddp
    return [model_provider()]
