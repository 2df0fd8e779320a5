"""The next token of each sequence: chosen from the model's scores, and handed out.

What the rows ask for goes to the device before the forward pass, in one transfer with the tokens;
what was chosen comes back in one read. Nothing else waits for the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kit.errors import ServiceError
from kit.serve import sampling
from kit.serve.engine import Logprobs
from kit.serve.sequence import EngineSequence

_NO_TOKEN = -1


class NotNumbers(ServiceError):
    """A sequence's scores are infinite, or no numbers at all."""


def upload(
    device: torch.device, integers: Sequence[Sequence[int]], floats: Sequence[Sequence[float]]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Vectors of int64 and of fp64 on the device, of lists; one transfer, nothing waits for it."""
    parts = [torch.tensor(each, dtype=torch.int64) for each in integers]
    parts += [torch.tensor(each, dtype=torch.float64).view(torch.int64) for each in floats]
    joined = torch.cat(parts)
    if device.type == "cuda" and torch.cuda.is_available():
        joined = joined.pin_memory()
    there = torch.split(joined.to(device, non_blocking=True), [len(part) for part in parts])
    whole, broken = there[: len(integers)], there[len(integers) :]
    return list(whole), [each.view(torch.float64) for each in broken]


@dataclass(frozen=True)
class Wanted:
    """What the sequences of a step ask of the choice, before it is on the device.

    Attributes:
        sequences: one per row.
        sampled: rows whose token is drawn.
        filtered: those of them with top-k or top-p.
        scored: rows that report log-probabilities.
        vocab_size: more alternatives than that there are not.
    """

    sequences: Sequence[EngineSequence]
    sampled: Sequence[int]
    filtered: Sequence[int]
    scored: Sequence[int]
    vocab_size: int

    @classmethod
    def of(cls, sequences: Sequence[EngineSequence], vocab_size: int) -> "Wanted":
        """What these sequences ask for."""
        params = [sequence.params for sequence in sequences]
        sampled = [row for row, sequence in enumerate(sequences) if sequence.generator is not None]
        filtered = [row for row in sampled if sampling.is_filtered(params[row])]
        scored = [row for row, each in enumerate(params) if each.top_logprobs is not None]
        return cls(sequences, sampled, filtered, scored, vocab_size)

    def integers(self) -> list[list[int]]:
        """For :func:`upload`."""
        everything = self.vocab_size
        return [
            [each.generated < each.params.min_tokens for each in self.sequences],
            [
                min(self.sequences[row].params.top_k or everything, everything)
                for row in self.filtered
            ],
            list(self.sampled),
            [self.sampled.index(row) for row in self.filtered],
            list(self.scored),
        ]

    def floats(self) -> list[list[float]]:
        """For :func:`upload`."""
        params = [sequence.params for sequence in self.sequences]
        return [
            [each.presence_penalty for each in params],
            [each.frequency_penalty for each in params],
            [params[row].temperature for row in self.sampled],
            [params[row].top_p for row in self.filtered],
        ]

    def top(self) -> int:
        """The most alternatives that a row reports."""
        most = max((self.sequences[row].params.top_logprobs or 0 for row in self.scored), default=0)
        return min(most, self.vocab_size)


class Chooser:
    """Chooses the tokens of a step, on the device.

    Args:
        wanted: what the rows ask for.
        integers, floats: the same on the device, from :func:`upload`.
        end_token_id: it ends a sequence, and is not chosen before ``min_tokens``.
    """

    def __init__(
        self,
        wanted: Wanted,
        integers: Sequence[torch.Tensor],
        floats: Sequence[torch.Tensor],
        end_token_id: int,
    ) -> None:
        self._wanted, self._end = wanted, end_token_id
        early, self._top_k, self._sampled, self._filtered, self._scored = integers
        self._early = early > 0
        columns = [each.float()[:, None] for each in floats]
        self._presence, self._frequency, self._temperature, self._top_p = columns

    def hand_out(self, raw: torch.Tensor, counts: torch.Tensor) -> None:
        """Choose the next token of every sequence and hand it to its listener.

        A sequence whose scores are no numbers ends with an error; the others do not notice.

        Args:
            raw: the model's scores, fp32 ``[B, vocab]``.
            counts: how often each token was generated so far, int32 ``[B, vocab]``; is updated.
        """
        usable = sampling.usable(raw)
        chosen = self._choose(torch.where(usable[:, None], raw, 0.0), counts)
        column = chosen[:, None]
        counts.scatter_add_(1, column, torch.ones_like(column, dtype=counts.dtype))
        told = [torch.where(usable, chosen, _NO_TOKEN).double(), *self._logprobs(raw, chosen)]
        tokens, *scored = _read(told)
        logprobs = self._by_row(scored)
        for row, (sequence, token) in enumerate(zip(self._wanted.sequences, tokens, strict=True)):
            if token == _NO_TOKEN:
                sequence.fail(_no_numbers())
            else:
                sequence.append(int(token), logprobs.get(row), self._end)

    def _choose(self, raw: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Token ids, int64 ``[B]``: the highest score, the lowest id among equals, or drawn."""
        scores = sampling.penalise(raw, counts, self._presence, self._frequency)
        end = scores[:, self._end]
        scores[:, self._end] = torch.where(self._early, -torch.inf, end)
        chosen = scores.argmax(dim=-1)
        sequences, sampled = self._wanted.sequences, self._wanted.sampled
        if sampled:
            drawn = scores[self._sampled] / self._temperature
            if self._wanted.filtered:
                kept = sampling.keep_top(drawn[self._filtered], self._top_k[:, None], self._top_p)
                drawn[self._filtered] = kept
            generators = [sequences[row].generator for row in sampled]
            chosen[self._sampled] = sampling.draw(drawn, [each for each in generators if each])
        return chosen

    def _logprobs(self, raw: torch.Tensor, chosen: torch.Tensor) -> list[torch.Tensor]:
        """fp64: of the chosen tokens ``[S]``, and the best ids and theirs ``[S * top]``."""
        if not self._wanted.scored:
            return []
        logs = torch.log_softmax(raw[self._scored], dim=-1)
        of_chosen = logs.gather(1, chosen[self._scored][:, None])
        best = torch.topk(logs, self._wanted.top())
        return [each.flatten().double() for each in (of_chosen, best.indices, best.values)]

    def _by_row(self, told: Sequence[Sequence[float]]) -> dict[int, Logprobs]:
        if not told:
            return {}
        of_chosen, ids, values = told
        top, found = self._wanted.top(), {}
        for index, row in enumerate(self._wanted.scored):
            wanted = self._wanted.sequences[row].params.top_logprobs or 0
            best = slice(index * top, index * top + min(wanted, top))
            pairs = zip(map(int, ids[best]), values[best], strict=True)
            found[row] = Logprobs(of_chosen[index], tuple(pairs))
        return found


def hand_out(
    sequences: Sequence[EngineSequence], raw: torch.Tensor, counts: torch.Tensor, end_token_id: int
) -> None:
    """:meth:`Chooser.hand_out` for scores that are here already."""
    wanted = Wanted.of(sequences, raw.shape[-1])
    told = upload(raw.device, wanted.integers(), wanted.floats())
    Chooser(wanted, *told, end_token_id).hand_out(raw, counts)


def _read(parts: Sequence[torch.Tensor]) -> list[list[float]]:
    """fp64 vectors as lists, in one read."""
    read: list[float] = torch.cat(list(parts)).tolist()
    lists, start = [], 0
    for part in parts:
        lists.append(read[start : start + len(part)])
        start += len(part)
    return lists


def _no_numbers() -> NotNumbers:
    return NotNumbers(
        "the model gave scores that are not numbers",
        hint="send the request again; if it comes again, convert the checkpoint again",
    )
