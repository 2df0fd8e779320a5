"""Each rewrite of serving: what takes memory without it, and the same tokens with and without."""

import pytest

NAMES = ("windowed-attention", "rotated-keys", "last-logits")
PROMPT, LAYERS, SEQ_LENGTH = 20, 2, 1024


@pytest.mark.parametrize("name", NAMES)
def test_the_same_tokens(name, tree, probe):
    stock = probe(tree(["portability"]), "generate")
    assert stock.code == 0, stock.output[-2000:]
    assert probe(tree(without=[name]), "generate").found == stock.found
    assert probe(tree(), "generate").found == stock.found


def test_no_mask_is_built(tree, probe):
    assert probe(tree(without=["windowed-attention"]), "mask").found == SEQ_LENGTH**2
    assert probe(tree(), "mask").found == 0


def test_keys_are_rotated_once(tree, probe):
    prompt = 2 * LAYERS * PROMPT
    without = probe(tree(without=["rotated-keys"]), "rotations").found
    assert without == [prompt, LAYERS * (1 + PROMPT + 1)]
    assert probe(tree(), "rotations").found == [prompt, 2 * LAYERS]


def test_scores_of_the_last_position(tree, probe):
    without = probe(tree(without=["last-logits"]), "score_positions").found
    assert without == [PROMPT, PROMPT]
    assert probe(tree(), "score_positions").found == [1, PROMPT]
