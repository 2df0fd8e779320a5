"""Upstream's own code in this process: started as its inference script starts it, then called.

Upstream keeps its arguments and process groups in globals of its modules, so that one process
holds one model. The environment must be that of :func:`kit.serve.megatron.launch.environment`.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from kit.serve.megatron.imports import import_source_only
from kit.serve.shapes import Shapes

_SCRIPT = "tools.run_iFlytekSpark_text_generation"
_STREAMING = "megatron.spark_kit.streaming"  # kit/upstream/added/streaming.py
_COMPILED_AT_START = "deepspeed_shm_comm"
"""An op of DeepSpeed's for the CPU, which upstream does not use and which asks for a compiler."""
_COLLECTIVE_TIMEOUT = timedelta(minutes=10)
"""Of one all-reduce within a forward pass; a rank that waits for work is in none."""


def import_upstream(tree: Path) -> ModuleType:
    """Upstream's inference script as a module; imports all that it needs, starts nothing.

    What lies in the tree as compiled Python is not used: only the source was verified.
    """
    import_source_only(tree)
    sys.path.insert(0, str(tree))
    # Upstream's `tools` is a folder without __init__.py: any installed package of that name, even
    # one later on the path, would come before it.
    tools = ModuleType("tools")
    tools.__path__ = [str(tree / "tools")]
    sys.modules["tools"] = tools
    return importlib.import_module(_SCRIPT)


def initialise(script: ModuleType, arguments: Sequence[str], rendezvous: Path) -> None:
    """DeepSpeed's process group, then upstream's ``initialize_megatron`` on top of it.

    Args:
        script: from :func:`import_upstream`.
        arguments: upstream's command line.
        rendezvous: a file that the ranks share and that no earlier ranks have used.
    """
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    initialize_megatron = importlib.import_module("megatron.initialize").initialize_megatron
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    get_accelerator().set_device(int(os.environ["LOCAL_RANK"]))
    deepspeed.ops.__compatible_ops__[_COMPILED_AT_START] = False
    deepspeed.init_distributed(
        get_accelerator().communication_backend_name(),
        timeout=_COLLECTIVE_TIMEOUT,
        init_method=rendezvous.as_uri(),
        rank=rank,
        world_size=world_size,
    )
    sys.argv = [str(script.__file__), *arguments]
    initialize_megatron(
        extra_args_provider=script.add_text_generate_args,
        args_defaults={"no_load_rng": True, "no_load_optim": True},
    )
    # The flag made upstream take the process group; in the model it would skip what it must do.
    importlib.import_module("megatron").get_args().ds_inference = False


def load_model(
    script: ModuleType, progress: Callable[[float], None] = lambda fraction: None
) -> torch.nn.Module:
    """The model with its weights, as upstream's script builds it: ``--from-pretrained`` is read.

    ``progress`` is told the share of the weights in place, where the tree loads them in a stream.
    """
    if streaming := sys.modules.get(_STREAMING):
        streaming.progress = progress  # type: ignore[attr-defined]
    get_model = importlib.import_module("megatron.training").get_model
    model: torch.nn.Module = get_model(script.model_provider, wrap_with_ddp=False)[0]
    model.eval()
    return model


class CachedSequence:
    """One sequence in upstream's model, with upstream's KV cache (its ``InferenceParams``).

    Args:
        model: from :func:`load_model`.
        capacity: positions that the KV cache holds.
    """

    def __init__(self, model: torch.nn.Module, capacity: int) -> None:
        generation: Any = importlib.import_module("megatron.text_generation.generation")
        self._step = generation.ForwardStep(model, 1, capacity)
        self._step.inference_params.last_logits_only = True  # asked by the rewrite last-logits
        self._device = next(model.parameters()).device
        tokens = torch.zeros(1, capacity, dtype=torch.int64, device=self._device)
        build = generation._build_attention_mask_and_position_ids
        self._mask, self._positions = build(tokens)
        self._shapes = Shapes(exact=self._device.type != "cpu")
        self._read = 0

    @torch.no_grad()
    def forward(self, tokens: Sequence[int]) -> torch.Tensor:
        """fp32 scores ``[vocab]`` after the last of ``tokens``, which follow those read before.

        Upstream takes any number of tokens at first, and one at a time from then on; with the
        rewrite rotated-keys it takes any number every time. On a CPU, where libraries keep a
        program for every number, all but the last are padded to one of a handful; what padding
        leaves in the KV cache lies behind the queries, and is overwritten next.
        """
        before = tokens[:-1]
        room = self._positions.shape[1] - self._read
        if before and self._shapes.tokens(len(tokens), room) != len(tokens):
            padding = self._shapes.tokens(len(before), room) - len(before)
            self._pass([*before, *[0] * padding])
            self._read += len(before)
            self._step.inference_params.sequence_len_offset = self._read
            tokens = tokens[-1:]
        scores = self._pass(tokens)
        self._read += len(tokens)
        return scores[0, -1].float()

    def _pass(self, tokens: Sequence[int]) -> torch.Tensor:
        start, end = self._read, self._read + len(tokens)
        scores: torch.Tensor = self._step(
            torch.tensor([tokens], device=self._device),
            self._positions[:, start:end],
            self._mask[..., start:end, :end],
        )
        return scores
