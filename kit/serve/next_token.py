"""The next token of each sequence: chosen from the model's scores, and handed out."""

from collections.abc import Sequence

import torch

from kit.serve import sampling
from kit.serve.engine import Logprobs
from kit.serve.sequence import EngineSequence


def hand_out(
    sequences: Sequence[EngineSequence], raw: torch.Tensor, counts: torch.Tensor, end_token_id: int
) -> None:
    """Choose the next token of every sequence and hand it to its listener.

    Args:
        sequences: one per row of the tensors.
        raw: the model's scores, fp32 ``[B, vocab]``.
        counts: how often each token was generated so far, int32 ``[B, vocab]``; is updated.
        end_token_id: it ends a sequence, and is not chosen before ``min_tokens``.
    """
    params = [sequence.params for sequence in sequences]
    presence = raw.new_tensor([[each.presence_penalty] for each in params])
    frequency = raw.new_tensor([[each.frequency_penalty] for each in params])
    scores = sampling.penalise(raw, counts, presence, frequency)
    for index, sequence in enumerate(sequences):
        if sequence.generated < sequence.params.min_tokens:
            scores[index, end_token_id] = -torch.inf
    chosen = torch.stack(
        [
            sampling.choose(row, sequence.params, sequence.generator)
            for row, sequence in zip(scores, sequences, strict=True)
        ]
    )
    counts.scatter_add_(1, chosen[:, None], torch.ones_like(chosen[:, None], dtype=counts.dtype))
    for row, sequence, token in zip(raw, sequences, chosen.tolist(), strict=True):
        sequence.append(token, _logprobs(row, sequence, token), end_token_id)


def _logprobs(scores: torch.Tensor, sequence: EngineSequence, token: int) -> Logprobs | None:
    top = sequence.params.top_logprobs
    return None if top is None else sampling.logprobs(scores, token, top)
