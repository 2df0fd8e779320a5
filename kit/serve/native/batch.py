"""The sequences that run together: which row of the KV cache each has, and their forward passes."""

from collections.abc import Callable

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from kit.models.spark import SparkForCausalLM
from kit.serve.native.cache import RingCache, Span
from kit.serve.next_token import Chooser, Wanted, upload
from kit.serve.shapes import Shapes
from kit.serve.worker import EngineSequence

_ATTENTION = "kit_ring"
"""transformers' own call of torch's attention, under a name for which it makes no masks."""
AttentionInterface.register(_ATTENTION, sdpa_attention_forward)


class Batch:
    """Running sequences, one per row of the cache.

    The rows in use are always the first ones: those that decode, then at most one whose prompt is
    being read. When a sequence ends, the last row moves into its place.

    Args:
        model: its attention is set to torch's kernels.
        cache: has a row for each sequence.
        chunk: prompt tokens per forward pass.
        end_token_id: ends a sequence.
        shapes: of the forward passes; None: padded on a CPU.
        explain: makes of a lack of memory what its sequence is told.
    """

    def __init__(
        self,
        model: SparkForCausalLM,
        cache: RingCache,
        *,
        chunk: int,
        end_token_id: int,
        shapes: Shapes | None = None,
        explain: Callable[[Exception], Exception] = lambda error: error,
    ) -> None:
        self._model, self._cache, self._chunk = model, cache, chunk
        self._explain = explain
        model.config._attn_implementation = _ATTENTION
        self._end = end_token_id
        self._rows: list[EngineSequence] = []
        self._capacity = cache.key_positions.shape[0]
        self._device = cache.key_positions.device
        self._shapes = Shapes(exact=self._device.type != "cpu") if shapes is None else shapes
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
        starts = [len(sequence) - 1 for sequence in sequences]
        self._forward(0, tokens, starts, sequences)
        return len(sequences)

    def _prefill(self, row: int) -> int:
        sequence = self._rows[row]
        start = sequence.prefilled
        tokens = list(sequence.prompt_ids[start : start + self._chunk])
        sequence.prefilled += len(tokens)
        generates = [sequence] if _decodes(sequence) else []
        try:
            self._forward(row, [tokens], [start], generates)
        except torch.OutOfMemoryError as error:  # a prompt takes more than the tokens of others
            sequence.fail(self._explain(error))
            return 0
        return len(generates)

    def _forward(
        self,
        first_row: int,
        tokens: list[list[int]],
        starts: list[int],
        generating: list[EngineSequence],
    ) -> None:
        """Read tokens ``[B, T]`` that follow what the rows hold, and choose each row's next one.

        Args:
            first_row: of the rows.
            tokens: of each row, equally many.
            starts: positions of the rows' first tokens.
            generating: the rows' sequences; none where their prompts go on.
        """
        span = self._span(first_row, tokens, starts)
        wanted = Wanted.of(generating, self._counts.shape[1])
        integers = [_padded(tokens, span), span.positions(), *wanted.integers()]
        whole, broken = upload(self._device, integers, wanted.floats())
        token_ids, positions = (each.view(span.padded_rows, -1) for each in whole[:2])
        step = self._cache.step(span, positions, self._shapes)
        hidden = self._model.model(
            input_ids=token_ids,
            position_ids=positions,
            attention_mask=step.mask,
            past_key_values=step,
            use_cache=True,
        ).last_hidden_state
        if generating:
            # The last real token of each real row. For a view with other strides, a CPU's kernel
            # would copy the whole embedding table.
            last = hidden[:, span.tokens - 1].contiguous()
            scores = self._model.lm_head(last)[: span.rows].float()
            counts = self._counts[first_row : first_row + span.rows]
            Chooser(wanted, whole[2:], broken, self._end).hand_out(scores, counts)

    def _span(self, first_row: int, tokens: list[list[int]], starts: list[int]) -> Span:
        longest = min(self._chunk, self._cache.positions)
        return Span(
            first_row=first_row,
            starts=starts,
            tokens=len(tokens[0]),
            padded_rows=self._shapes.sequences(len(tokens), self._capacity - first_row),
            padded_tokens=self._shapes.tokens(len(tokens[0]), longest),
        )

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


def _padded(tokens: list[list[int]], span: Span) -> list[int]:
    """All rows one after another, with zeros for padding."""
    rows = [*tokens, *[[]] * (span.padded_rows - span.rows)]
    return [token for row in rows for token in [*row, *[0] * (span.padded_tokens - len(row))]]


def _decodes(sequence: EngineSequence) -> bool:
    return sequence.prefilled == len(sequence.prompt_ids)
