"""The native engine: continuous batching over one preallocated KV cache, in one thread."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from kit.errors import IntegrityError, KitError
from kit.memory.plan.fit import serving_limits
from kit.memory.plan.native import PREFILL_CHUNK, kv_positions
from kit.memory.plan.shape import read_shape
from kit.models.spark import SparkConfig
from kit.models.spark.configuration_spark import QUERY_BLOCK
from kit.serve.engine import EngineStats, ModelInfo, OnStep, Progress, SamplingParams
from kit.serve.gpu import GPU_ERRORS, cap_vram, choose_device, device_memory, gpu_failed
from kit.serve.native.batch import Batch
from kit.serve.native.cache import RingCache
from kit.serve.native.loader import DTypeName, load_model
from kit.serve.native.quantised import type_name
from kit.serve.warm_up import warm_up
from kit.serve.worker import Worker
from kit.units import MIB

ONE_THREAD_BYTES = 64 * MIB
"""On the CPU, threads that share so little work cost more than they give, most of all when the
cores are shared too."""


Check = Callable[[Callable[[int, int], None]], None]
"""Holds the files against what they must be before they are loaded; told how to show progress."""


class NativeEngine:
    """Generates with the model of a converted directory. See :class:`kit.serve.engine.Engine`.

    A prompt is read in chunks of 512 tokens; between two chunks every running sequence gets its
    next token, so a long prompt does not stall the others. Sequences that run together share each
    forward pass; more than ``max_sequences`` wait, and the requests that they belong to take turns.
    """

    def __init__(
        self,
        model_dir: Path,
        *,
        device: str = "auto",
        dtype: DTypeName = "auto",
        context: int | None = None,
        max_sequences: int | None = None,
        max_vram_bytes: int | None = None,
        check: Check = lambda progress: None,
    ) -> None:
        self._model_dir = model_dir
        self._check = check
        self._device_name, self._dtype = device, dtype
        self._context, self._max_sequences = context, max_sequences
        self._max_vram_bytes = max_vram_bytes
        self._device = torch.device("cpu")  # until load() has chosen one
        self._worker = Worker("native-engine", _explain)

    def load(self, progress: Progress) -> ModelInfo:
        """Load the weights, allocate the KV cache, prove both with a generated token. Blocks.

        Raises:
            KitError: the directory is damaged, or the machine cannot hold the model.
        """
        shape = read_shape(self._model_dir)
        self._check(lambda done, total: progress("verifying", done / max(total, 1)))
        try:
            self._device = device = choose_device(self._device_name)
            cap_vram(device, self._max_vram_bytes)
            model = load_model(self._model_dir, device, self._dtype, progress)
            shape = replace(shape, dtype_bytes=model.dtype.itemsize)
            context, rows = serving_limits(shape, self._context, self._max_sequences)
            progress("kv-cache", 0.0)
            positions = kv_positions(shape, context)
            cache = RingCache(model.config, rows, positions, model.dtype, device)
            end = _end_token_id(model.config)
            chunk = _chunk(model.config.sliding_window)
            batch = Batch(model, cache, chunk=chunk, end_token_id=end, explain=_explain)
            if device.type == "cpu" and shape.weights_bytes < ONE_THREAD_BYTES:
                torch.set_num_threads(1)
            progress("warm-up", 0.0)
            self._worker.start(batch, context, lambda: warm_up(batch, self._model_dir, context))
        except GPU_ERRORS as error:
            raise gpu_failed(error) from error
        return ModelInfo(
            context_length=context,
            max_sequences=rows,
            vocab_size=model.config.vocab_size,
            end_token_id=end,
            dtype=type_name(model),
            device=str(device),
            weights_bytes=sum(parameter.nbytes for parameter in model.parameters()),
            kv_cache_bytes=cache.size_bytes,
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
        """The present figures."""
        pool = device_memory(self._device)
        running, waiting = self._worker.counts()
        return EngineStats(
            running=running,
            waiting=waiting,
            prompt_tokens=self._worker.prompt_tokens,
            generated_tokens=self._worker.generated_tokens,
            device_peak_reserved_bytes=None if pool is None else pool.peak_reserved_bytes,
            device_reserved_bytes=None if pool is None else pool.reserved_bytes,
            device_allocated_bytes=None if pool is None else pool.allocated_bytes,
        )

    def healthy(self) -> bool:
        """False once the engine's own thread has died."""
        return self._worker.alive()

    def wait(self) -> KitError | None:
        """Block until the engine's thread has ended; returns why, None after :meth:`close`."""
        return self._worker.wait()

    def close(self) -> None:
        """End all sequences with an error and stop the thread."""
        self._worker.close()


def _explain(error: Exception) -> Exception:
    """What the sequences that ran are told; after a lack of memory the pool is emptied."""
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()
    return gpu_failed(error) if isinstance(error, GPU_ERRORS) else error


def _chunk(window: int | None) -> int:
    """Prompt tokens per forward pass: what the ring holds beyond the window.

    A block window that is not a multiple of the query block reaches back up to one block further.
    """
    return PREFILL_CHUNK - (QUERY_BLOCK if window and window % QUERY_BLOCK else 0)


def _end_token_id(config: SparkConfig) -> int:
    end = config.eos_token_id
    if not isinstance(end, int):
        raise IntegrityError(
            f"config.json must name one eos_token_id, not {end}",
            hint="convert the checkpoint again",
        )
    return end
