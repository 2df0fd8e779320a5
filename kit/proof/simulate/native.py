"""The native engine at full size: its own code loads a model, reads prompts and answers them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import safe_open

from kit.checkpoint.pages import Bytes, SourceReader
from kit.memory.plan.native import PREFILL_CHUNK
from kit.proof.simulate.card import pretended_card
from kit.proof.simulate.ledger import Ledger, Stage
from kit.proof.simulate.ledger import Step as Counted
from kit.proof.simulate.tensors import with_data, without_data
from kit.serve.engine import SamplingParams, Step
from kit.serve.native import staging
from kit.serve.native.engine import NativeEngine
from kit.serve.worker import EngineSequence, Running, Worker

ANSWER_TOKENS = 4
"""Generated at the context's end: the first comes with the prompt, the others are decode steps."""
GREEDY = SamplingParams(
    max_tokens=ANSWER_TOKENS, presence_penalty=1.1, frequency_penalty=0.1, ignore_end=True
)
"""Upstream's own way to choose, which is the server's default."""

_CHUNKS = 20
"""A prompt's chunks that are read at most: the 13B's window is full after 17."""


def run_native(
    ledger: Ledger,
    directory: Path,
    *,
    context: int,
    max_sequences: int,
    params: SamplingParams = GREEDY,
) -> Counted:
    """Load a converted directory, fill its context in every sequence; what the last step did."""
    engine = NativeEngine(directory, device="cuda", context=context, max_sequences=max_sequences)
    kept = _Kept("simulated")
    engine._worker = kept  # its thread would not know that tensors have no data

    def progress(phase: str, _: float) -> None:
        if phase == "kv-cache":  # it belongs to what serving takes
            ledger.begin(Stage.PROMPT)

    with without_data(ledger), pretended_card(ledger):
        with _files_unread(ledger):
            engine.load(progress)
        assert kept.running is not None  # noqa: S101  (load() has started it)
        _read_prompts(kept.running, context, max_sequences, params)
        ledger.begin(Stage.DECODE)
        while len(kept.running):
            ledger.begin_step()
            kept.running.advance()
    return ledger.step


class _Kept(Worker):
    """Keeps what it would run in its thread."""

    running: Running | None = None

    def start(
        self, running: Running, context: int, prove: Callable[[], None] = lambda: None
    ) -> None:
        """Keep it. What would prove it is less than what is done with it here."""
        self.running = running


def _read_prompts(running: Running, context: int, count: int, params: SamplingParams) -> None:
    """Admit all sequences; they reach the context's end together.

    While a prompt is read, those before it generate a token with every chunk.
    """
    later, plans = 0, []
    for index in reversed(range(count)):
        tokens = min(context - 1, params.max_tokens + later)
        starts = _chunks(context - tokens, whole=index in (0, count - 1))
        later += len(starts)
        plans.append((tokens, starts))
    for tokens, starts in reversed(plans):
        prompt = (1,) * (context - tokens)
        sequence = EngineSequence(prompt, replace(params, max_tokens=tokens), _raise)
        running.admit(sequence)
        for start in starts:
            sequence.prefilled = start
            running.advance()
        while sequence.prefilled < len(prompt):
            running.advance()


def _chunks(length: int, *, whole: bool) -> list[int]:
    """Where the chunks of a prompt begin that are read.

    Not all: beyond the window, chunk after chunk is the same, and a prompt between the first and
    the last sequence's takes what those take. Its last chunk stands for it.
    """
    starts = list(range(0, length, PREFILL_CHUNK))
    if not whole:
        return starts[-1:]
    return starts if len(starts) <= _CHUNKS else starts[: _CHUNKS - 2] + starts[-2:]


def _raise(step: Step | Exception) -> None:
    if isinstance(step, Exception):
        raise step


class _Opened:
    """A safetensors file, opened as ever; its mapped tensors are real, whatever mode there is."""

    def __init__(self, ledger: Ledger, path: Path, framework: str) -> None:
        if ledger.stage is Stage.BUILD:
            ledger.begin(Stage.LOAD)
        self._file: Any = safe_open(path, framework=framework)

    def __enter__(self) -> Self:
        self._file.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)

    def offset_keys(self) -> list[str]:
        """In the order of their bytes."""
        names: list[str] = self._file.offset_keys()
        return names

    def get_tensor(self, name: str) -> torch.Tensor:
        """The mapped tensor."""
        with with_data():
            tensor: torch.Tensor = self._file.get_tensor(name)
            return tensor


@contextmanager
def _files_unread(ledger: Ledger) -> Iterator[None]:
    """The files are holes: nobody looks at what is in them, and their tensors are just shapes."""
    read, opened = SourceReader.read, safe_open

    def unread(self: SourceReader, buffer: Bytes, offset: int, nbytes: int) -> Bytes:
        return buffer[:nbytes]

    SourceReader.read = unread  # type: ignore[method-assign]
    setattr(staging, "safe_open", partial(_Opened, ledger))  # noqa: B010  (its import)
    try:
        yield
    finally:
        SourceReader.read = read  # type: ignore[method-assign]
        setattr(staging, "safe_open", opened)  # noqa: B010
