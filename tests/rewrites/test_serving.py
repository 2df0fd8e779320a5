"""Each rewrite of serving: what takes memory without it, and the same tokens with and without."""

import pytest

NAMES = ("windowed-attention", "rotated-keys", "last-logits")
PROMPT, LAYERS, HEADS, SEQ_LENGTH = 20, 2, 4, 1024


@pytest.fixture
def serving(tree, probe):
    """``serving()`` in the default tree, ``serving(name)`` in that without a rewrite."""

    def found(*without):
        run = probe(tree(without=without), "serving")
        assert run.code == 0, run.output[-2000:]
        return run.found

    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_same_tokens(name, tree, probe, serving):
    stock = probe(tree(["portability"]), "generate")
    assert stock.code == 0, stock.output[-2000:]
    assert serving(name)["tokens"] == stock.found
    assert serving()["tokens"] == stock.found


def test_no_mask_is_built_and_no_scores_are_kept(serving):
    without, with_it = serving("windowed-attention"), serving()
    assert without["mask_bytes"] == SEQ_LENGTH**2
    assert without["buffer_bytes"] >= HEADS * PROMPT**2 * 4
    assert (with_it["mask_bytes"], with_it["buffer_bytes"]) == (0, 0)


def test_a_short_text_can_be_scored(serving):
    assert "must match the size" in serving("windowed-attention")["scored"]
    assert serving()["scored"] == PROMPT - 1


def test_keys_are_rotated_once(serving):
    prompt = 2 * LAYERS * PROMPT
    assert serving("rotated-keys")["rotated"] == [prompt, LAYERS * (1 + PROMPT + 1)]
    assert serving()["rotated"] == [prompt, 2 * LAYERS]


def test_a_prompt_may_be_read_in_chunks(serving):
    """Upstream rotates the queries of any but the first as if they were all at its end."""
    assert serving("rotated-keys")["chunk_difference"] > 1e-2
    assert serving()["chunk_difference"] < 1e-4


def test_scores_of_the_last_position(serving):
    assert serving("last-logits")["score_positions"] == [PROMPT, PROMPT]
    assert serving()["score_positions"] == [1, PROMPT]
