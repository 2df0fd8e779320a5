"""Attention in upstream's block window, against a mask that is built whole."""

import pytest
import torch

from kit.upstream.added.attention import BlockMask, attend, first_visible_key

WIDTH, HEADS, BATCH = 8, 2, 2
CPU = torch.device("cpu")


def visible(query: int, key: int, window: int | None) -> bool:
    inside = window is None or 128 * (key // 128) > 16 * (query // 16) - window
    return key <= query and inside


def states(length: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(length, BATCH, HEADS, WIDTH, generator=random).to(dtype)


def reference(query, key, value, hidden, divisor):
    scores = torch.einsum("qbhd,kbhd->bhqk", query.float() / divisor, key.float())
    probabilities = scores.masked_fill(hidden, -10000.0).softmax(-1).to(value.dtype)
    return torch.einsum("bhqk,kbhd->qbhd", probabilities, value).flatten(2)


def whole_mask(queries: range, keys: int, window: int | None) -> torch.Tensor:
    return torch.tensor([[not visible(q, k, window) for k in range(keys)] for q in queries])


@pytest.mark.parametrize("window", [None, 192, 256])
@pytest.mark.parametrize(("first", "queries"), [(0, 700), (0, 1), (650, 1), (300, 260)])
def test_only_the_run_of_visible_keys_counts(window, first, queries):
    keys = first + queries
    query, key, value = states(queries, 1), states(keys, 2), states(keys, 3)
    rows = BlockMask(window, CPU)[..., first:keys, :keys]
    expected = reference(query, key, value, whole_mask(range(first, keys), keys, window), 3.0)
    found = attend(query, key, value, rows, divisor=3.0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_whole_mask_is_for_a_sequence_from_its_start():
    query, key, value = states(700, 1), states(700, 2), states(700, 3)
    mask = BlockMask(256, CPU)
    found = attend(query, key, value, mask, divisor=3.0)
    assert torch.equal(found, attend(query, key, value, mask[..., :700, :700], divisor=3.0))


@pytest.mark.parametrize("window", [None, 192, 256])
def test_first_visible_key(window):
    for query in range(0, 900, 7):
        first = next(key for key in range(query + 1) if visible(query, key, window))
        assert first_visible_key(query, window) == first


def test_a_tensor_mask_is_taken_too():
    query, key, value = states(20, 1), states(20, 2), states(20, 3)
    hidden = whole_mask(range(20), 20, None)
    found = attend(query, key, value, hidden[None, None], divisor=1.0)
    torch.testing.assert_close(found, reference(query, key, value, hidden, 1.0))
    everything = attend(query, key, value, None, divisor=1.0)
    nothing_hidden = torch.zeros_like(hidden)
    torch.testing.assert_close(everything, reference(query, key, value, nothing_hidden, 1.0))


def test_the_sum_is_in_the_values_type_and_dropout_is_applied():
    half = torch.bfloat16
    query, key, value = states(4, 1, half), states(4, 2, half), states(4, 3, half)
    rows = BlockMask(None, CPU)[..., 0:4, :4]
    found = attend(query, key, value, rows, divisor=1.0, dropout=torch.zeros_like)
    assert found.dtype == half
    assert not found.any()
