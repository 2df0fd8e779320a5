"""Sampling rules on literals."""

import pytest
import torch

from kit.serve.engine import SamplingParams
from kit.serve.sampling import choose, keep_top_k, keep_top_p, logprobs, penalise


def test_penalties_are_openais():
    scores = torch.tensor([[1.0, 2.0, 3.0]])
    counts = torch.tensor([[0, 1, 3]], dtype=torch.int32)
    penalised = penalise(scores, counts, torch.tensor([[1.1]]), torch.tensor([[0.1]]))
    assert penalised.tolist() == [pytest.approx([1.0, 0.8, 1.6])]


def test_top_k_keeps_ties_with_the_last():
    kept = keep_top_k(torch.tensor([1.0, 3.0, 2.0, 2.0]), 2)
    assert kept.isfinite().tolist() == [False, True, True, True]


def test_top_k_beyond_the_vocabulary_keeps_all():
    assert keep_top_k(torch.zeros(3), 9).isfinite().all()


@pytest.mark.parametrize(("p", "kept"), [(0.5, 1), (0.6, 2), (0.85, 2), (0.95, 3), (1.0, 4)])
def test_top_p_keeps_the_token_that_crosses(p, kept):
    scores = torch.tensor([0.1, 0.57, 0.03, 0.3]).log()
    assert int(keep_top_p(scores, p).isfinite().sum()) == kept


def test_greedy_takes_the_lowest_id_among_equals_and_ignores_filters():
    params = SamplingParams(max_tokens=1, temperature=0, top_k=1, top_p=0.1)
    assert int(choose(torch.tensor([1.0, 5.0, 5.0]), params, None)) == 1


def test_temperature_flattens():
    generator = torch.Generator().manual_seed(0)
    scores = torch.tensor([0.0, 2.0])

    def share(temperature: float) -> float:
        params = SamplingParams(max_tokens=1, temperature=temperature)
        draws = [int(choose(scores, params, generator)) for _ in range(2000)]
        return sum(draws) / len(draws)

    assert share(1.0) == pytest.approx(0.88, abs=0.03)
    assert share(2.0) == pytest.approx(0.73, abs=0.03)


def test_logprobs_sum_to_one():
    result = logprobs(torch.tensor([0.0, 1.0, 2.0]), 1, 3)
    assert [token for token, _ in result.top] == [2, 1, 0]
    assert sum(torch.tensor([value for _, value in result.top]).exp()) == pytest.approx(1)
    assert result.chosen == result.top[1][1]
