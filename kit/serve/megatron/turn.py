"""One sequence at a time in upstream's model, which keeps one KV cache for all rows of a batch."""

import torch

from kit.serve.megatron.messages import Forward
from kit.serve.megatron.ranks import Ranks
from kit.serve.next_token import hand_out
from kit.serve.sequence import EngineSequence


class Turn:
    """The sequence whose turn it is."""

    def __init__(self, ranks: Ranks, vocab_size: int, end_token_id: int) -> None:
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
        """The sequence's next token; returns how many were generated.

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
        told = self._ranks.forward(_order(sequence))
        sequence.prefilled = len(sequence.prompt_ids)
        scores = torch.frombuffer(bytearray(told), dtype=torch.float32)
        hand_out([sequence], scores[None], self._counts, self._end)
        if sequence.finished:
            self._sequence = None
        return 1


def _order(sequence: EngineSequence) -> Forward:
    """The whole prompt at first, then the token that was chosen last."""
    capacity = len(sequence.prompt_ids) + sequence.params.max_tokens
    if sequence.prefilled:
        return Forward(len(sequence) - 1, (sequence.last_token,), capacity)
    return Forward(0, sequence.prompt_ids, capacity)
