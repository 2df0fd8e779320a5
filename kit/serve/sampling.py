"""From scores to the next token, in upstream's order.

Penalties on what was generated, minimum length, temperature, top-k, top-p, then the choice.
"""

import torch

from kit.serve.engine import Logprobs, SamplingParams


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


def keep_top_k(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Scores ``[vocab]`` with everything below the k-th highest at -inf. Ties with it stay."""
    if k >= scores.shape[-1]:
        return scores
    return scores.masked_fill(scores < torch.topk(scores, k).values[-1], -torch.inf)


def keep_top_p(scores: torch.Tensor, p: float) -> torch.Tensor:
    """Scores ``[vocab]`` with all but the most probable tokens at -inf.

    Tokens stay, most probable first, until their probabilities sum to more than p; the one that
    crosses p stays too. p = 1 keeps all; upstream then drops a few of the least probable, by
    rounding of the sum.
    """
    if p >= 1:
        return scores
    ordered, order = torch.sort(scores, descending=True)
    passed = torch.softmax(ordered, dim=-1).cumsum(dim=-1) > p
    dropped = torch.cat((passed.new_zeros(1), passed[:-1]))
    return scores.masked_fill(torch.zeros_like(dropped).scatter(0, order, dropped), -torch.inf)


def choose(
    scores: torch.Tensor, params: SamplingParams, generator: torch.Generator | None
) -> torch.Tensor:
    """One token id (0-d tensor) from penalised fp32 scores ``[vocab]``.

    Temperature 0 takes the highest score, the lowest id among equals, whatever top-k and top-p say.
    """
    if params.temperature == 0:
        return scores.argmax()
    scores = scores / params.temperature
    if params.top_k > 0:
        scores = keep_top_k(scores, params.top_k)
    scores = keep_top_p(scores, params.top_p)
    return torch.multinomial(torch.softmax(scores, dim=-1), 1, generator=generator)[0]


def logprobs(scores: torch.Tensor, token_id: int, top: int) -> Logprobs:
    """Log-probabilities of one token and of the best, from the model's scores, fp32 ``[vocab]``."""
    logs = torch.log_softmax(scores, dim=-1)
    best = torch.topk(logs, top)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return Logprobs(chosen=float(logs[token_id]), top=tuple(pairs))
