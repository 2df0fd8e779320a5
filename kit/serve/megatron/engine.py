"""The megatron engine: the rewritten upstream behind the server's Engine protocol."""

import os
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import torch

from kit.errors import EnvironmentNotReady, KitError, UsageError
from kit.memory.plan.fit import serving_limits
from kit.memory.plan.native import PREFILL_CHUNK
from kit.serve.engine import EngineStats, ModelInfo, OnStep, Progress, SamplingParams
from kit.serve.gpu import named_device
from kit.serve.megatron.folder import DTYPE_BYTES, DType, UpstreamFolder, upstream_arguments
from kit.serve.megatron.messages import Forward, Task
from kit.serve.megatron.ranks import Ranks
from kit.serve.native.loader import DTypeName
from kit.serve.next_token import hand_out
from kit.serve.warm_up import warm_up
from kit.serve.worker import EngineSequence, Worker
from kit.units import MIB
from kit.upstream.files import read_manifest


class Turn:
    """The sequence whose turn it is.

    Args:
        ranks: which hold the model.
        vocab_size: of the model.
        end_token_id: of the tokenizer.
        chunk: prompt tokens per forward pass; None: all.
    """

    def __init__(self, ranks: Ranks, vocab_size: int, end_token_id: int, chunk: int | None) -> None:
        self._chunk = chunk
        self._ranks = ranks
        self._end = end_token_id
        self._counts = torch.zeros(1, vocab_size, dtype=torch.int32)
        self._sequence: EngineSequence | None = None

    def __len__(self) -> int:
        return 0 if self._sequence is None else 1

    def has_room(self) -> bool:
        """Whether nobody's turn it is."""
        return self._sequence is None

    def admit(self, sequence: EngineSequence) -> None:
        """Give the sequence its turn."""
        self._counts.zero_()
        sequence.start(torch.device("cpu"))
        self._sequence = sequence

    def fail(self, error: Exception) -> None:
        """End the sequence with an error."""
        if self._sequence is not None:
            self._sequence.fail(error)
            self._sequence = None

    @torch.inference_mode()
    def advance(self) -> int:
        """A chunk of the prompt, or the next token; returns how many were generated.

        Raises:
            KitError: the forward pass failed.
            EngineDied: the ranks are gone.
        """
        sequence = self._sequence
        if sequence is None:
            return 0
        if sequence.cancelled:
            self._sequence = None
            return 0
        order = self._next_input(sequence)
        told = self._ranks.forward(order)
        sequence.prefilled = min(order.start + len(order.tokens), len(sequence.prompt_ids))
        if sequence.prefilled < len(sequence.prompt_ids):
            return 0
        scores = torch.frombuffer(bytearray(told), dtype=torch.float32)
        hand_out([sequence], scores[None], self._counts, self._end)
        if sequence.finished:
            self._sequence = None
        return 1

    def _next_input(self, sequence: EngineSequence) -> Forward:
        """The prompt's next chunk, or the token that was chosen last."""
        start = sequence.prefilled
        if start == len(sequence.prompt_ids):
            return Forward(len(sequence) - 1, (sequence.last_token,))
        end = None if self._chunk is None else start + self._chunk
        return Forward(start, tuple(sequence.prompt_ids[start:end]))


_ONE_THREAD_BYTES = 64 * MIB
"""Threads that share so little work cost more than they give; see the native engine."""


class MegatronEngine:
    """Generates with upstream's own model code. See :class:`kit.serve.engine.Engine`.

    Upstream runs in processes of its own, one per tensor-parallel rank. This process tells every
    rank each forward pass, and chooses the tokens by the kit's rules. One sequence runs at a time;
    the others wait, and the requests that they belong to take turns. When one rank ends, all do,
    and the engine is dead.

    Args:
        folder: the checkpoint; it has a shard per rank.
        tree: the rewritten upstream tree (its ``deepspeed-megatron`` folder).
        device: "cpu", "cuda", or "auto".
        dtype: of the weights while they serve; "auto" is bfloat16, as in upstream's own script.
        context: tokens of a prompt and its answer; None: 4096, or what the model was made for.
        max_vram_bytes: what all ranks together may take of their GPUs.
    """

    def __init__(
        self,
        folder: UpstreamFolder,
        tree: Path,
        *,
        device: str = "auto",
        dtype: DTypeName = "auto",
        context: int | None = None,
        max_vram_bytes: int | None = None,
    ) -> None:
        self._folder, self._tree = folder, tree
        self._device_name = device
        self._dtype: DType = "bfloat16" if dtype == "auto" else dtype
        self._context, self._max_vram_bytes = context, max_vram_bytes
        self._worker = Worker("megatron-engine")
        self._ranks: Ranks | None = None

    def load(self, progress: Progress) -> ModelInfo:
        """Start the ranks, let them load, prove them with a generated token. Blocks.

        Raises:
            KitError: the checkpoint is damaged, or the machine cannot hold the model.
        """
        count = len(self._folder.shards)
        device = _require_devices(self._device_name, count)
        shape = self._folder.shape(DTYPE_BYTES[self._dtype])
        context, _ = serving_limits(shape, self._context, 1)
        progress("startup", 0.0)
        self._ranks = ranks = Ranks(count, device, self._worker.die)
        try:
            loaded = ranks.load(self._task(ranks, device, context), progress)
            chunk = _chunk(self._tree)
            turn = Turn(ranks, shape.vocabulary, self._folder.end_token_id, chunk)
            progress("warm-up", 0.0)
            torch.set_num_threads(1)  # here only tokens are chosen; the cores are the ranks'
            directory = self._folder.shards[0].parent
            self._worker.start(turn, context, lambda: warm_up(turn, directory, context))
        except KitError:
            ranks.close()
            raise
        return ModelInfo(
            context_length=context,
            max_sequences=1,
            vocab_size=shape.vocabulary,
            end_token_id=self._folder.end_token_id,
            dtype=self._dtype,
            device=device,
            weights_bytes=sum(each.weights_bytes for each in loaded),
            kv_cache_bytes=2 * shape.layers * shape.hidden * shape.dtype_bytes * context,
            tensor_parallel=count,
        )

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        on_step: OnStep,
        request: Hashable = None,
    ) -> Callable[[], None]:
        """Queue a sequence; returns at once with a function that cancels it.

        Raises:
            ValueError: the prompt is empty, or prompt and ``max_tokens`` pass the context.
        """
        return self._worker.submit(prompt_ids, params, on_step, request)

    def stats(self) -> EngineStats:
        """The present figures; those of the GPUs are sums over the ranks."""
        running, waiting = self._worker.counts()
        memory = None if self._ranks is None else self._ranks.device_memory()
        return EngineStats(
            running=running,
            waiting=waiting,
            prompt_tokens=self._worker.prompt_tokens,
            generated_tokens=self._worker.generated_tokens,
            device_peak_reserved_bytes=None if memory is None else memory.peak_reserved_bytes,
            device_reserved_bytes=None if memory is None else memory.reserved_bytes,
            device_allocated_bytes=None if memory is None else memory.allocated_bytes,
        )

    def healthy(self) -> bool:
        """False once the engine's own thread has ended, as it does when a rank dies."""
        return self._worker.alive()

    def wait(self) -> KitError | None:
        """Block until the engine has ended; returns why it died, None after :meth:`close`."""
        return self._worker.wait()

    def close(self) -> None:
        """End all sequences with an error, then the ranks."""
        self._worker.close()
        if self._ranks is not None:
            self._ranks.close()

    def _task(self, ranks: Ranks, device: str, context: int) -> Task:
        count = len(self._folder.shards)
        cap = self._max_vram_bytes
        return Task(
            tree=self._tree,
            arguments=upstream_arguments(
                self._folder, context=context, dtype=self._dtype, device=device
            ),
            rendezvous=ranks.rendezvous,
            device=device,
            capacity=context,
            threads=_threads(self._folder.parameters * DTYPE_BYTES[self._dtype] // count, count),
            max_vram_bytes=None if cap is None else cap // count,
        )


def _require_devices(name: str, count: int) -> str:
    """ "cpu" or "cuda": the device of that name, if there is one for every rank.

    Raises:
        EnvironmentNotReady: there are fewer.
        UsageError: a single GPU is named.
    """
    if ":" in name:
        raise UsageError(
            f"the megatron engine takes GPUs in their order, not {name}",
            hint=f"CUDA_VISIBLE_DEVICES={name.partition(':')[2]} and --device cuda",
        )
    device = named_device(name).type
    found = torch.cuda.device_count()
    if device == "cuda" and found < count:
        raise EnvironmentNotReady(
            f"the checkpoint's {count} shards need as many GPUs, torch sees {found}",
            hint="make fewer shards: kit weights convert, then kit weights export --tp "
            f"{found}; or serve on the CPU with --device cpu",
        )
    return device


def _chunk(tree: Path) -> int | None:
    """Prompt tokens per forward pass: the native engine's number, where upstream can go on after
    a first part of a prompt; None where it has to read all of it at once.
    """
    manifest = read_manifest(tree.parent)
    can_go_on = manifest is not None and "rotated-keys" in manifest.rewrites
    return PREFILL_CHUNK if can_go_on else None


def _threads(weights_bytes: int, ranks: int) -> int:
    """Threads of a rank on the CPU: the ranks share the cores."""
    if weights_bytes < _ONE_THREAD_BYTES:
        return 1
    return max(1, len(os.sched_getaffinity(0)) // ranks)
