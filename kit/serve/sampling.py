"""From scores to the next token, in upstream's order, for all rows of a batch at once.

Penalties on what was generated, minimum length, temperature, top-k, top-p, then the choice. What a
row gets does not depend on the others.
"""

from collections.abc import Sequence

import torch

from kit.serve.engine import SamplingParams

LARGEST_SCORE = 1e30
"""A score beyond it comes of broken weights. Below it, no temperature gives an infinity."""


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
