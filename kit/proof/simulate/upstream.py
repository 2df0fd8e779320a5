"""Upstream's own code at full size: built, loaded, moved and asked, as its script does it."""

import mmap
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from kit.memory.plan.native import PREFILL_CHUNK
from kit.proof.simulate.card import pretended_card
from kit.proof.simulate.ledger import Ledger, Place, Stage, Step
from kit.proof.simulate.tensors import Watch, without_data
from kit.serve.megatron import upstream
from kit.serve.megatron.folder import DType, read_folder, upstream_arguments

# The first allocates what the next ones use again; the third shows that nothing more comes.
DECODE_STEPS = 3
STREAMING = "megatron.spark_kit.streaming"
"""The kit's file in the rewritten tree that loads in a stream."""
_NO_NETWORK = "fake"
"""torch's process group for tests, which moves nothing: a single rank has nobody to talk to."""


def run_upstream(
    ledger: Ledger,
    tree: Path,
    checkpoint: Path,
    *,
    context: int,
    dtype: DType,
    in_chunks: bool,
) -> Step:
    """Start upstream in this process, load, fill the context; what the last step did.

    The environment must be that of :func:`kit.serve.megatron.launch.environment`.

    Args:
        tree: upstream's, rewritten so that it runs at all.
        checkpoint: a folder in upstream's format, of one shard.
        in_chunks: upstream reads a prompt in chunks of the kit's size, which it can once its
            rewrites let it; else all at once.
    """
    folder = read_folder(checkpoint)
    arguments = upstream_arguments(folder, context=context, dtype=dtype, device="cuda")
    script = upstream.import_upstream(tree)
    torch.distributed.init_process_group(_NO_NETWORK, store=FakeStore(), rank=0, world_size=1)
    with without_data(ledger) as watch, pretended_card(ledger):
        upstream.initialise(script, arguments, checkpoint / "rendezvous")
        model = _load(ledger, watch, script)
        ledger.begin(Stage.PROMPT)
        sequence = upstream.CachedSequence(model, context)
        prompt = [1] * (context - DECODE_STEPS)
        chunk = PREFILL_CHUNK if in_chunks else len(prompt)
        for start in range(0, len(prompt), chunk):
            sequence.forward(prompt[start : start + chunk])
        ledger.begin(Stage.DECODE)
        for _ in range(DECODE_STEPS):
            ledger.begin_step()
            sequence.forward([1]).cpu()
    return ledger.step


def _load(ledger: Ledger, watch: Watch, script: ModuleType) -> nn.Module:
    """upstream's get_model builds and loads in its script's provider, then moves what that gave."""
    provide = script.model_provider

    def provide_then_move(*args: Any, **kwargs: Any) -> nn.Module:
        model: nn.Module = provide(*args, **kwargs)
        ledger.begin(Stage.MOVE)
        return model

    script.model_provider = provide_then_move  # type: ignore[attr-defined]
    if streaming := sys.modules.get(STREAMING):
        streaming._advise = _Pages(ledger).advise  # type: ignore[attr-defined]
    with _torch_load_counted(ledger, watch):
        return upstream.load_model(script)


@contextmanager
def _torch_load_counted(ledger: Ledger, watch: Watch) -> Iterator[None]:
    """torch.load tells the ledger what it takes: a tensor at a time, in the file's order.

    Without mmap each is read into host memory, then copied to where it is to be. torch's fake mode
    makes the tensors of a file without reading them, and in no order that memory would show.
    """
    load = torch.load

    def counted(path: Any, map_location: Any = None, **kwargs: Any) -> Any:
        ledger.begin(Stage.LOAD)
        mapped = kwargs.pop("mmap", False)  # which takes no memory, but is asked whether it might
        watch.meta_is_real = False
        content = load(path, map_location=map_location, **kwargs)
        watch.meta_is_real = True
        FakeTensorMode.cache_clear()  # it has the file's storages in its keys
        for tensor in _leaves(content):
            if mapped:
                watch.adopt(tensor, Place.MAPPED)
            elif tensor.device.type == "cpu":
                watch.adopt(tensor)
            else:
                ledger.take(Place.HOST, tensor.nbytes)
                watch.adopt(tensor)
                ledger.give(Place.HOST, tensor.nbytes, None)
        return content

    torch.load = counted  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.load = load


class _Pages:
    """Pages of a mapped file: they come when they are asked for or used, and go on advice."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._here: set[tuple[int, int]] = set()

    def advise(self, mapped: torch.Tensor, advice: int) -> None:
        """Stands for madvise(2)."""
        key = (mapped.untyped_storage()._cdata, int(mapped.storage_offset()))
        if key not in self._here:
            self._here.add(key)
            self._ledger.take(Place.HOST, mapped.nbytes)
        if advice == mmap.MADV_DONTNEED:
            self._here.remove(key)
            self._ledger.give(Place.HOST, mapped.nbytes, None)


def _leaves(content: Mapping[str, Any]) -> Iterator[torch.Tensor]:
    for value in content.values():
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, Mapping):
            yield from _leaves(value)
