"""Upstream's repetition rule for transformers' ``generate``. Travels with every model directory."""

from typing import Any

import torch
from transformers.generation import GenerationMixin, LogitsProcessor, LogitsProcessorList


class SparkGenerationMixin(GenerationMixin):
    """transformers' generation with the two penalties it lacks."""

    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: Any = None,
        logits_processor: LogitsProcessorList | None = None,
        **kwargs: Any,
    ) -> Any:
        """transformers' generate, with presence_penalty and frequency_penalty.

        transformers has neither. They come from the arguments, else from ``generation_config``.
        """
        config = generation_config or self.generation_config
        presence = kwargs.pop("presence_penalty", getattr(config, "presence_penalty", None)) or 0.0
        frequency = (
            kwargs.pop("frequency_penalty", getattr(config, "frequency_penalty", None)) or 0.0
        )
        processors = LogitsProcessorList(logits_processor or [])
        if presence or frequency:
            processors.insert(0, OutputTokenPenalties(presence, frequency))
        return super().generate(  # type: ignore[misc]
            inputs, generation_config=generation_config, logits_processor=processors, **kwargs
        )


class OutputTokenPenalties(LogitsProcessor):
    """Presence and frequency penalties as OpenAI defines them; prompts do not count.

    Upstream's repetition rule (repeat_penalty 1.2 once, num_repeat_penalty 0.1 per further
    occurrence) is presence 1.1 and frequency 0.1. One instance serves one call of ``generate``.
    """

    def __init__(self, presence_penalty: float, frequency_penalty: float) -> None:
        self.presence_penalty = presence_penalty
        self.frequency_penalty = frequency_penalty
        self.prompt_length: int | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Penalised copy of scores ``[B, vocab]``, given all ids so far ``[B, T]``."""
        if self.prompt_length is None:
            self.prompt_length = input_ids.shape[1]
        generated = input_ids[:, self.prompt_length :]
        counts = torch.zeros_like(scores).scatter_add_(
            1, generated, torch.ones_like(generated, dtype=scores.dtype)
        )
        return scores - self.presence_penalty * (counts > 0) - self.frequency_penalty * counts
