"""Indices of training data, against a plain reading of what they mean."""

import numpy as np
import pytest

from kit.upstream.added.helpers import build_blending_indices, build_sample_idx


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("epochs", [1, 3])
def test_samples_follow_each_other(seed, epochs):
    random = np.random.default_rng(seed)
    sizes = random.integers(0, 12, size=20, dtype=np.int32)
    order = np.concatenate([random.permutation(20) for _ in range(epochs)]).astype(np.int32)
    seq_length, tokens = int(random.integers(2, 9)), int(sizes.sum())
    index = build_sample_idx(sizes, order, seq_length, epochs, tokens)
    row = [(place, token) for place, doc in enumerate(order) for token in range(sizes[doc])]
    assert index.dtype == np.int64
    assert index.shape == ((epochs * tokens - 1) // seq_length + 1, 2)
    for number, start in enumerate(index.tolist()[1:], start=1):
        assert tuple(start) == row[number * seq_length]
    assert index[0].tolist() == [0, 0]


def test_datasets_are_blended_by_weight():
    weights = np.array([0.5, 0.3, 0.2])
    datasets, samples = np.zeros(1000, np.uint8), np.zeros(1000, np.int64)
    build_blending_indices(datasets, samples, weights, 3, 1000, False)
    for number, weight in enumerate(weights):
        chosen = samples[datasets == number]
        assert chosen.tolist() == list(range(len(chosen)))
        assert abs(len(chosen) - 1000 * weight) <= 1
    assert datasets[:4].tolist() == [0, 1, 2, 0]
