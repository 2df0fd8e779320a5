"""One sequence at a time in upstream's model, which keeps one KV cache for all rows of a batch."""

import torch

from kit.serve.megatron.messages import Forward
from kit.serve.megatron.ranks import Ranks
from kit.serve.next_token import hand_out
from kit.serve.sequence import EngineSequence


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
