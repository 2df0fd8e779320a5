"""One sequence in the native engine: its prompt, what was generated, and where it stands."""

from array import array
from collections.abc import Sequence

import torch

from kit.serve.engine import FinishReason, Logprobs, OnStep, SamplingParams, Step


class EngineSequence:
    """A request on its way through the engine. Only :meth:`cancel` is called from other threads."""

    def __init__(self, prompt_ids: Sequence[int], params: SamplingParams, on_step: OnStep) -> None:
        self.prompt_ids = array("i", prompt_ids)
        """Four bytes a token; as Python's numbers, prompts that wait would take ten times that."""
        self.params = params
        self.cancelled = False
        self.finished = False
        self.prefilled = 0
        """Prompt tokens that the KV cache holds."""
        self.generated = 0
        self.last_token = -1
        self.generator: torch.Generator | None = None
        self._on_step = on_step

    def __len__(self) -> int:
        """Tokens so far, prompt and generated."""
        return len(self.prompt_ids) + self.generated

    def start(self, device: torch.device) -> None:
        """Seed the sequence's own random numbers."""
        if not self.params.greedy:
            self.generator = torch.Generator(device)
            if self.params.seed is None:
                self.generator.seed()
            else:
                self.generator.manual_seed(self.params.seed)

    def append(self, token_id: int, logprobs: Logprobs | None, end_token_id: int) -> None:
        """Take a generated token and hand it to the listener."""
        self.last_token = token_id
        self.generated += 1
        reason: FinishReason | None = None
        if token_id == end_token_id and not self.params.ignore_end:
            reason = "stop"
        elif self.generated >= self.params.max_tokens:
            reason = "length"
        self.finished = reason is not None
        self._deliver(Step(token_id, logprobs, reason))

    def fail(self, error: Exception) -> None:
        """End with an error."""
        self.finished = True
        self._deliver(error)

    def cancel(self) -> None:
        """Ask the engine to drop the sequence at its next step; nothing more is handed out."""
        self.cancelled = True

    def _deliver(self, step: Step | Exception) -> None:
        if self.cancelled:
            return
        try:
            self._on_step(step)
        except Exception:  # a listener that is gone ends its sequence, never the engine
            self.cancelled = True
