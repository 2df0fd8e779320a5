"""What upstream takes from apex, in torch's own functions.

The names are apex's (https://github.com/NVIDIA/apex), so that upstream's calls stay as they are.
"""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch

FusedAdam = torch.optim.AdamW
FusedSGD = torch.optim.SGD

Lists = Sequence[list[torch.Tensor]]


def multi_tensor_applier(
    op: Callable[..., Any], overflow_buf: torch.Tensor, lists: Lists, *args: Any
) -> Any:
    """Call ``op`` for all tensors of ``lists`` at once."""
    return op(overflow_buf, lists, *args)


def _l2norm(
    overflow_buf: torch.Tensor, lists: Lists, per_tensor: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The L2 norm over all tensors of the first list, fp32 [1], and of each of them if wanted."""
    if not lists[0]:
        return torch.zeros(1, dtype=torch.float32, device=overflow_buf.device), None
    norms = torch.stack([torch.linalg.vector_norm(tensor.float()) for tensor in lists[0]])
    return torch.linalg.vector_norm(norms).reshape(1), norms if per_tensor else None


def _scale(overflow_buf: torch.Tensor, lists: Lists, scale: float) -> None:
    """Write the tensors of the first list, times ``scale``, into those of the second.

    ``overflow_buf`` becomes 1 where a source is infinite or not a number.
    """
    for source, target in zip(*lists, strict=True):
        if not bool(torch.isfinite(source).all()):
            overflow_buf.fill_(1)
        target.copy_(source * scale)


amp_C = SimpleNamespace(multi_tensor_l2norm=_l2norm, multi_tensor_scale=_scale)  # noqa: N816
