"""The sequences that run together: which row of the KV cache each has, and their forward passes."""

import torch

from kit.serve.cache import RingCache
from kit.serve.next_token import hand_out
from kit.serve.sequence import EngineSequence
from kit.spark import SparkForCausalLM


class Batch:
    """Running sequences, one per row of the cache.

    The rows in use are always the first ones: those that decode, then at most one whose prompt is
    being read. When a sequence ends, the last row moves into its place.
    """

    def __init__(
        self, model: SparkForCausalLM, cache: RingCache, *, chunk: int, end_token_id: int
    ) -> None:
        self._model, self._cache, self._chunk = model, cache, chunk
        self._end = end_token_id
        self._rows: list[EngineSequence] = []
        self._capacity = cache.key_positions.shape[0]
        self._device = cache.key_positions.device
        shape = (self._capacity, model.config.vocab_size)
        self._counts = torch.zeros(shape, dtype=torch.int32, device=self._device)

    def __len__(self) -> int:
        return len(self._rows)

    def has_room(self) -> bool:
        """Whether a sequence can be admitted: a row is free and no prompt is being read."""
        reading = bool(self._rows) and not _decodes(self._rows[-1])
        return not reading and len(self._rows) < self._capacity

    def admit(self, sequence: EngineSequence) -> None:
        """Give the sequence the next row."""
        row = len(self._rows)
        self._cache.clear(row)
        self._counts[row] = 0
        sequence.start(self._device)
        self._rows.append(sequence)

    def fail(self, error: Exception) -> None:
        """End every sequence with an error."""
        for sequence in self._rows:
            sequence.fail(error)
        self._rows.clear()

    @torch.inference_mode()
    def advance(self) -> int:
        """One token for every decoding sequence and one chunk of the prompt being read.

        Returns the number of tokens generated.
        """
        self._drop_finished()
        decoding = [sequence for sequence in self._rows if _decodes(sequence)]
        generated = self._decode(decoding) if decoding else 0
        if len(self._rows) > len(decoding):
            generated += self._prefill(len(decoding))
        self._drop_finished()
        return generated

    def _decode(self, sequences: list[EngineSequence]) -> int:
        tokens = [[sequence.last_token] for sequence in sequences]
        positions = [[len(sequence) - 1] for sequence in sequences]
        self._generate(0, sequences, self._forward(0, tokens, positions))
        return len(sequences)

    def _prefill(self, row: int) -> int:
        sequence = self._rows[row]
        start = sequence.prefilled
        tokens = list(sequence.prompt_ids[start : start + self._chunk])
        scores = self._forward(row, [tokens], [list(range(start, start + len(tokens)))])
        sequence.prefilled += len(tokens)
        if not _decodes(sequence):
            return 0
        self._generate(row, [sequence], scores)
        return 1

    def _forward(
        self, first_row: int, tokens: list[list[int]], positions: list[list[int]]
    ) -> torch.Tensor:
        """fp32 scores ``[B, vocab]`` of the last position of tokens ``[B, T]``."""
        longest = max(row[-1] for row in positions) + 1
        position_ids = torch.tensor(positions, device=self._device)
        step = self._cache.step(first_row, position_ids, longest)
        output = self._model(
            input_ids=torch.tensor(tokens, device=self._device),
            position_ids=position_ids,
            attention_mask=step.mask,
            past_key_values=step,
            use_cache=True,
            logits_to_keep=1,
        )
        scores: torch.Tensor = output.logits[:, -1].float()
        return scores

    def _generate(self, first_row: int, sequences: list[EngineSequence], raw: torch.Tensor) -> None:
        """Choose and hand out the next token of consecutive rows, given their scores."""
        counts = self._counts[first_row : first_row + len(sequences)]
        hand_out(sequences, raw, counts, self._end)

    def _drop_finished(self) -> None:
        for row in reversed(range(len(self._rows))):
            if self._rows[row].finished or self._rows[row].cancelled:
                self._remove(row)

    def _remove(self, row: int) -> None:
        """Free a row: the last decoding sequence moves there, the one being read follows it."""
        reading = len(self._rows) > 1 and not _decodes(self._rows[-1])
        for source in (len(self._rows) - 2, len(self._rows) - 1) if reading else (-1,):
            source %= len(self._rows)
            if row < source:
                self._move(source, row)
                row = source
        self._rows.pop()

    def _move(self, source: int, target: int) -> None:
        self._cache.move(source, target)
        self._counts[target] = self._counts[source]
        self._rows[target] = self._rows[source]


def _decodes(sequence: EngineSequence) -> bool:
    return sequence.prefilled == len(sequence.prompt_ids)
