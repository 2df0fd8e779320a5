"""The next token of each sequence: chosen from the model's scores, and handed out.

What the rows ask for goes to the device before the forward pass, in one transfer with the tokens;
what was chosen comes back in one read. Nothing else waits for the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kit.errors import ServiceError
from kit.serve.engine import Logprobs, SamplingParams
from kit.serve.worker import EngineSequence

LARGEST_SCORE = 1e30
"""A score beyond it comes of broken weights. Below it, no temperature gives an infinity."""


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
        filtered = [row for row in sampled if is_filtered(params[row])]
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
        finite = usable(raw)
        chosen = self._choose(torch.where(finite[:, None], raw, 0.0), counts)
        column = chosen[:, None]
        counts.scatter_add_(1, column, torch.ones_like(column, dtype=counts.dtype))
        told = [torch.where(finite, chosen, _NO_TOKEN).double(), *self._logprobs(raw, chosen)]
        tokens, *scored = _read(told)
        logprobs = self._by_row(scored)
        for row, (sequence, token) in enumerate(zip(self._wanted.sequences, tokens, strict=True)):
            if token == _NO_TOKEN:
                sequence.fail(_no_numbers())
            else:
                sequence.append(int(token), logprobs.get(row), self._end)

    def _choose(self, raw: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Token ids, int64 ``[B]``: the highest score, the lowest id among equals, or drawn."""
        scores = penalise(raw, counts, self._presence, self._frequency)
        end = scores[:, self._end]
        scores[:, self._end] = torch.where(self._early, -torch.inf, end)
        chosen = scores.argmax(dim=-1)
        sequences, sampled = self._wanted.sequences, self._wanted.sampled
        if sampled:
            drawn = scores[self._sampled] / self._temperature
            if self._wanted.filtered:
                kept = keep_top(drawn[self._filtered], self._top_k[:, None], self._top_p)
                drawn[self._filtered] = kept
            generators = [sequences[row].generator for row in sampled]
            chosen[self._sampled] = draw(drawn, [each for each in generators if each])
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


def usable(scores: torch.Tensor) -> torch.Tensor:
    """Whether all scores of a row ``[B, vocab]`` are numbers to choose by, bool ``[B]``."""
    return scores.abs().amax(dim=-1) < LARGEST_SCORE  # which a NaN is not


def penalise(
    scores: torch.Tensor, counts: torch.Tensor, presence: torch.Tensor, frequency: torch.Tensor
) -> torch.Tensor:
    """Scores less the penalties of tokens already generated, as OpenAI defines them.

    Args:
        scores: fp32 ``[B, vocab]``.
        counts: how often each token was generated so far, ``[B, vocab]``, integer.
        presence: subtracted once where the count is not 0, fp32 ``[B, 1]``.
        frequency: subtracted once per occurrence, fp32 ``[B, 1]``.
    """
    return scores - presence * (counts > 0) - frequency * counts


def keep_top(scores: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Scores ``[B, vocab]`` with what top-k, then top-p drop at -inf.

    Of top-k, ties with the k-th highest stay. Of top-p, tokens stay, most probable first, until
    their probabilities sum to more than p; the one that crosses p stays too. p = 1 keeps all;
    upstream then drops a few of the least probable, by rounding of the sum.

    Args:
        scores: fp32.
        top_k: int64 ``[B, 1]``, from 1 to the vocabulary's size, which keeps all.
        top_p: fp32 ``[B, 1]``.
    """
    ordered, order = torch.sort(scores, dim=-1, descending=True, stable=True)
    lowest = ordered.gather(-1, top_k - 1)
    ordered = ordered.masked_fill(ordered < lowest, -torch.inf)
    passed = torch.softmax(ordered, dim=-1).cumsum(dim=-1) > top_p
    passed &= top_p < 1
    dropped = torch.cat((torch.zeros_like(passed[:, :1]), passed[:, :-1]), dim=-1)
    dropped = torch.zeros_like(dropped).scatter(-1, order, dropped) | (scores < lowest)
    return scores.masked_fill(dropped, -torch.inf)


def draw(scores: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
    """One token id a row, int64 ``[B]``, by the softmax of its scores ``[B, vocab]``.

    Each row draws from its own generator, so that a seed gives the same in any company: the
    probability over an exponentially distributed number is the highest for each token as often as
    it is to be chosen. ``torch.multinomial`` does the same, but ends the process on a GPU when a
    row has no probabilities.
    """
    noise = torch.empty_like(scores)
    for row, generator in zip(noise, generators, strict=True):
        row.exponential_(generator=generator)
    noise.clamp_min_(torch.finfo(noise.dtype).tiny)  # 0 over 0 would be chosen
    return torch.softmax(scores, dim=-1).div_(noise).argmax(dim=-1)


def is_filtered(params: SamplingParams) -> bool:
    """Whether top-k or top-p may drop something."""
    return params.top_k > 0 or params.top_p < 1
