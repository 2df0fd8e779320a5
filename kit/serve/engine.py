"""What the server needs from an engine: one small protocol, and the data that crosses it."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from kit.errors import KitError

FinishReason = Literal["stop", "length"]
GREEDY_BELOW = 1e-5
"""Temperatures below it are 0: scores divided by them would pass what fp32 holds."""
Progress = Callable[[str, float], None]
"""Called as ``progress(phase, fraction)`` while loading; fraction runs from 0.0 to 1.0."""


@dataclass(frozen=True)
class SamplingParams:
    """How to choose the next token. All of it applies to generated tokens, never to the prompt.

    The order is upstream's: penalties, minimum length, temperature, top-k, top-p.

    Attributes:
        max_tokens: stop after this many generated tokens.
        min_tokens: the end token cannot be chosen before this many (upstream's min_len, 1).
        temperature: scores are divided by it; 0, and what is as good as 0 (``GREEDY_BELOW``),
            chooses the highest score, whatever top_k and top_p say (greedy).
        top_k: keep the k highest scores; 0 keeps all.
        top_p: keep the most probable tokens until their sum first exceeds p; 1 keeps all.
        presence_penalty: subtracted once from the score of every token already generated.
        frequency_penalty: subtracted once per earlier occurrence.
        seed: makes sampling repeatable; None draws a fresh one.
        top_logprobs: how many alternatives to report per token; None reports no log-probabilities.
        ignore_end: go on after the end token (it is then an ordinary token).
    """

    max_tokens: int
    min_tokens: int = 1
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    top_logprobs: int | None = None
    ignore_end: bool = False

    @property
    def greedy(self) -> bool:
        """Whether the highest score is chosen."""
        return self.temperature < GREEDY_BELOW


@dataclass(frozen=True)
class Logprobs:
    """Natural-log probabilities of one step, taken from the model's own (unpenalised) scores.

    Attributes:
        chosen: of the token that was generated.
        top: (token id, log-probability) of the most probable tokens, best first.
    """

    chosen: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Step:
    """One generated token. The last one of a sequence carries the finish reason."""

    token_id: int
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | None = None


OnStep = Callable[[Step | Exception], None]
"""Called from the engine's thread for every token, or once with the error that ended it all."""


@dataclass(frozen=True)
class ModelInfo:
    """What the loaded model is.

    Attributes:
        context_length: prompt and generated tokens together, per sequence.
        max_sequences: sequences that can be generated at once; more are queued.
        dtype: as torch names it; "int8 (bfloat16)" where only the matrices are of less.
        device: such as "cpu" or "cuda".
        weights_bytes, kv_cache_bytes: on all devices together.
        tensor_parallel: processes, and devices, that the model is cut over.
    """

    context_length: int
    max_sequences: int
    vocab_size: int
    end_token_id: int
    dtype: str
    device: str
    weights_bytes: int
    kv_cache_bytes: int
    tensor_parallel: int = 1


@dataclass(frozen=True)
class EngineStats:
    """Counters and gauges for /metrics and /health.

    Attributes:
        device_peak_reserved_bytes, device_reserved_bytes: torch's pool on the GPU, its peak and
            now; None without a GPU.
        device_allocated_bytes: what live tensors take of that pool now.
    """

    running: int
    waiting: int
    prompt_tokens: int
    generated_tokens: int
    device_peak_reserved_bytes: int | None
    device_reserved_bytes: int | None = None
    device_allocated_bytes: int | None = None


class Engine(Protocol):
    """A loaded model that generates tokens for many sequences. Thread-safe after :meth:`load`."""

    def load(self, progress: Progress) -> ModelInfo:
        """Load the weights and prove them with a real forward pass. Blocks.

        Raises:
            KitError: the directory is damaged, or the machine cannot hold the model.
        """
        ...

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        on_step: OnStep,
        request: Hashable = None,
    ) -> Callable[[], None]:
        """Queue a sequence; returns at once with a function that cancels it, from any thread.

        Sequences of one ``request`` wait together: requests take turns.
        """
        ...

    def stats(self) -> EngineStats:
        """The present figures."""
        ...

    def healthy(self) -> bool:
        """False once the engine's own thread has died."""
        ...

    def wait(self) -> KitError | None:
        """Block until the engine has ended; returns why it died, None after :meth:`close`."""
        ...

    def close(self) -> None:
        """End all sequences and free the model."""
        ...
