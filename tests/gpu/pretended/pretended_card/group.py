"""NCCL's process group on the pretended card: one rank, for which a collective is a copy."""

from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d


class OneRank(dist.ProcessGroup):
    """In the place of ``ProcessGroupNCCL``, which a build without CUDA does not have."""

    Options = SimpleNamespace

    def __init__(self, store: Any, rank: int, size: int, options: Any) -> None:
        assert size == 1, "the pretended machine has one card"
        super().__init__(rank, size)

    def allreduce(self, tensors: list[torch.Tensor], options: Any = None) -> dist.Work:
        """The sum over one rank."""
        return _done(tensors)

    def broadcast(self, tensors: list[torch.Tensor], options: Any = None) -> dist.Work:
        """From the one rank to itself."""
        return _done(tensors)

    def allgather(
        self, outputs: list[list[torch.Tensor]], inputs: list[torch.Tensor], options: Any = None
    ) -> dist.Work:
        """What the one rank has."""
        for gathered, tensor in zip(outputs, inputs, strict=True):
            gathered[0].copy_(tensor)
        return _done(outputs)

    def barrier(self, options: Any = None) -> dist.Work:
        """Nobody to wait for."""
        return _done([])

    def _get_backend(self, device: torch.device) -> Any:
        """It is its own; it cannot be split."""
        return SimpleNamespace(supports_splitting=False)

    def _set_sequence_number_for_group(self) -> None:
        """There is nobody to be in step with."""

    def getBackendName(self) -> str:  # noqa: N802  (torch's name)
        """As torch names it."""
        return "nccl"


def _done(result: Any) -> dist.Work:
    future: torch.futures.Future[Any] = torch.futures.Future()
    future.set_result(result)
    work: dist.Work = torch._C._distributed_c10d._create_work_from_future(future)
    return work


def install() -> None:
    """Make it what torch.distributed takes for NCCL."""
    torch._C._distributed_c10d.ProcessGroupNCCL = OneRank  # type: ignore[attr-defined]
    distributed_c10d.ProcessGroupNCCL = OneRank  # type: ignore[attr-defined, misc]
    distributed_c10d._NCCL_AVAILABLE = True
