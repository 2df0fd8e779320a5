"""The native engine: continuous batching over one preallocated KV cache, in one thread."""

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from kit.errors import IntegrityError, KitError, ServiceError
from kit.memory.limits import serving_limits
from kit.memory.plan import PREFILL_CHUNK, kv_positions
from kit.memory.shape import read_shape
from kit.serve.batch import Batch
from kit.serve.cache import RingCache
from kit.serve.cap import cap_vram
from kit.serve.engine import EngineStats, ModelInfo, OnStep, Progress, SamplingParams, Step
from kit.serve.loader import DTypeName, choose_device, load_model
from kit.serve.quantised import type_name
from kit.serve.sequence import EngineSequence
from kit.spark import SparkConfig
from kit.spark.configuration_spark import QUERY_BLOCK
from kit.units import MIB

ONE_THREAD_BYTES = 64 * MIB
"""On the CPU, threads that share so little work cost more than they give, most of all when the
cores are shared too."""


class NativeEngine:
    """Generates with the model of a converted directory. See :class:`kit.serve.engine.Engine`.

    A prompt is read in chunks of 512 tokens; between two chunks every running sequence gets its
    next token, so a long prompt does not stall the others. Sequences that run together share each
    forward pass; more than ``max_sequences`` wait in the order they came.
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
    ) -> None:
        self._model_dir = model_dir
        self._device_name, self._dtype = device, dtype
        self._context, self._max_sequences = context, max_sequences
        self._max_vram_bytes = max_vram_bytes
        self._waiting: deque[EngineSequence] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="native-engine", daemon=True)
        self._prompt_tokens = self._generated_tokens = 0
        self._batch: Batch | None = None

    def load(self, progress: Progress) -> ModelInfo:
        """Load the weights, allocate the KV cache, prove both with a generated token. Blocks.

        Raises:
            KitError: the directory is damaged, or the machine cannot hold the model.
        """
        device = choose_device(self._device_name)
        cap_vram(device, self._max_vram_bytes)
        shape = read_shape(self._model_dir)
        try:
            model = load_model(self._model_dir, device, self._dtype, progress)
            shape = replace(shape, dtype_bytes=model.dtype.itemsize)
            context, rows = serving_limits(shape, self._context, self._max_sequences)
            progress("kv-cache", 0.0)
            positions = kv_positions(shape, context)
            cache = RingCache(model.config, rows, positions, model.dtype, device)
            end = _end_token_id(model.config)
            chunk = _chunk(model.config.sliding_window)
            self._batch = Batch(model, cache, chunk=chunk, end_token_id=end)
            if device.type == "cpu" and shape.weights_bytes < ONE_THREAD_BYTES:
                torch.set_num_threads(1)
            progress("warm-up", 0.0)
            _warm_up(self._batch, self._model_dir)
        except torch.OutOfMemoryError as error:
            raise _out_of_memory(error) from error
        self._context = context
        self._thread.start()
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
        self, prompt_ids: Sequence[int], params: SamplingParams, on_step: OnStep
    ) -> Callable[[], None]:
        """Queue a sequence; returns at once with a function that cancels it.

        Raises:
            ValueError: the prompt is empty, or prompt and ``max_tokens`` pass the context.
        """
        if not prompt_ids or len(prompt_ids) + params.max_tokens > (self._context or 0):
            raise ValueError(
                f"{len(prompt_ids)} prompt tokens and {params.max_tokens} to generate do not fit "
                f"a context of {self._context}"
            )
        sequence = EngineSequence(tuple(prompt_ids), params, on_step)
        with self._wake:
            self._waiting.append(sequence)
            self._prompt_tokens += len(prompt_ids)
            self._wake.notify()
        return sequence.cancel

    def stats(self) -> EngineStats:
        """The present figures."""
        cuda = torch.cuda.is_available()
        return EngineStats(
            running=0 if self._batch is None else len(self._batch),
            waiting=len(self._waiting),
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
            device_peak_reserved_bytes=torch.cuda.max_memory_reserved() if cuda else None,
            device_reserved_bytes=torch.cuda.memory_reserved() if cuda else None,
            device_allocated_bytes=torch.cuda.memory_allocated() if cuda else None,
        )

    def healthy(self) -> bool:
        """False once the engine's own thread has died."""
        return self._thread.is_alive()

    def close(self) -> None:
        """End all sequences with an error and stop the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        batch = self._loaded()
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closing or self._waiting or len(batch))
                if self._closing:
                    break
            self._advance(batch)
        stopped = ServiceError("the server is shutting down", hint="send the request again")
        batch.fail(stopped)
        while self._waiting:
            self._waiting.popleft().fail(stopped)

    def _advance(self, batch: Batch) -> None:
        """One round: admit what fits, one token for who decodes, one chunk of a prompt."""
        while self._waiting and batch.has_room():
            batch.admit(self._waiting.popleft())
        try:
            self._generated_tokens += batch.advance()
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            batch.fail(_out_of_memory(error))
        except Exception as error:  # whatever a kernel raises ends these sequences, not the engine
            batch.fail(error)

    def _loaded(self) -> Batch:
        if self._batch is None:
            raise RuntimeError("load() comes first")
        return self._batch


def _warm_up(batch: Batch, directory: Path) -> None:
    """Generate one token for real; raises what went wrong."""
    steps: list[Step | Exception] = []
    params = SamplingParams(max_tokens=1, top_logprobs=1)
    batch.admit(EngineSequence((0,), params, steps.append))
    while len(batch):
        batch.advance()
    for step in steps:
        if isinstance(step, Exception):
            raise step
        if step.logprobs is None or not math.isfinite(step.logprobs.chosen):
            raise IntegrityError(
                f"the weights in {directory} give scores that are not numbers",
                hint="convert the checkpoint again; if that does not help, download it again",
            )


def _out_of_memory(error: torch.OutOfMemoryError) -> KitError:
    return ServiceError(
        f"the GPU ran out of memory: {str(error).splitlines()[0]}",
        hint="serve with a smaller --context or --max-sequences; kit memory plan shows what fits",
    )


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
