"""Sampling rules on literals."""

import pytest
import torch

from kit.serve.next_token import draw, keep_top, penalise, usable

ALL = 10**9


def kept(scores: list[float], k: int = ALL, p: float = 1.0) -> list[bool]:
    row = torch.tensor([scores])
    top_k = torch.tensor([[min(k, len(scores))]])
    return keep_top(row, top_k, torch.tensor([[p]]))[0].isfinite().tolist()


def test_penalties_are_openais():
    scores = torch.tensor([[1.0, 2.0, 3.0]])
    counts = torch.tensor([[0, 1, 3]], dtype=torch.int32)
    penalised = penalise(scores, counts, torch.tensor([[1.1]]), torch.tensor([[0.1]]))
    assert penalised.tolist() == [pytest.approx([1.0, 0.8, 1.6])]


def test_top_k_keeps_ties_with_the_last():
    assert kept([1.0, 3.0, 2.0, 2.0], 2) == [False, True, True, True]


def test_top_k_beyond_the_vocabulary_keeps_all():
    assert all(kept([0.0, 0.0, 0.0]))


@pytest.mark.parametrize(("p", "count"), [(0.5, 1), (0.6, 2), (0.85, 2), (0.95, 3), (1.0, 4)])
def test_top_p_keeps_the_token_that_crosses(p, count):
    scores = torch.tensor([0.1, 0.57, 0.03, 0.3]).log().tolist()
    assert sum(kept(scores, p=p)) == count


def test_top_p_counts_what_top_k_has_kept():
    scores = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().tolist()
    assert kept(scores, 2, 0.5) == [True, False, False, False]  # 0.4 of 0.7
    assert kept(scores, 2, 0.6) == [True, True, False, False]


def test_each_row_has_rules_of_its_own():
    scores = torch.tensor([[1.0, 2.0, 3.0]] * 3)
    rules = torch.tensor([[1], [2], [3]]), torch.tensor([[1.0], [1.0], [0.1]])
    finite = keep_top(scores, *rules).isfinite().sum(dim=-1)
    assert finite.tolist() == [1, 2, 1]


def test_a_draw_follows_the_probabilities():
    generator = torch.Generator().manual_seed(0)

    def share(temperature: float) -> float:
        scores = torch.tensor([[0.0, 2.0]]) / temperature
        draws = [int(draw(scores, [generator])) for _ in range(2000)]
        return sum(draws) / len(draws)

    assert share(1.0) == pytest.approx(0.88, abs=0.03)
    assert share(2.0) == pytest.approx(0.73, abs=0.03)


def test_a_draw_is_that_of_torch():
    """Seeds give what they gave when rows were drawn one by one with torch.multinomial."""
    scores = torch.randn(4, 50, generator=torch.Generator().manual_seed(3))
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    expected = [
        int(torch.multinomial(row.softmax(-1), 1, generator=torch.Generator().manual_seed(seed)))
        for seed, row in enumerate(scores)
    ]
    assert draw(scores, generators).tolist() == expected


def test_rows_that_cannot_be_chosen_by():
    rows = [[0.0, 1.0], [torch.nan, 1.0], [torch.inf, 1.0], [-torch.inf, 1.0], [1e31, 1.0]]
    assert usable(torch.tensor(rows)).tolist() == [True, False, False, False, False]


def test_top_p_of_0_keeps_the_most_probable() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0]])
    kept = keep_top(scores, torch.tensor([[3]]), torch.tensor([[0.0]]))
    assert torch.nonzero(kept.isfinite())[:, 1].tolist() == [1]
