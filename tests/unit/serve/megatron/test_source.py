"""A checkpoint as a model to serve."""

from pathlib import Path

import pytest

from kit.errors import UsageError
from kit.serve.defaults import GenerationDefaults
from kit.serve.megatron.source import megatron_source

TREE = Path("/no/tree/is/needed")


def test_the_tokenizer_is_the_kits(make_shards):
    source = megatron_source(make_shards(1), TREE)
    tokenizer = source.load_tokenizer()
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "x"}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
    )
    assert ids == [9, 1661, 1699, 5, 10, 1661]
    assert source.read_defaults() == GenerationDefaults()


def test_names(make_shards):
    folder = make_shards(2)
    assert megatron_source(folder, TREE).name == folder.name
    assert megatron_source(folder / "mp_rank_00_model_states.pt", TREE).name == folder.name
    source = megatron_source(folder, TREE, name="mine")
    assert (source.name, source.engine_name) == ("mine", "megatron")


def test_a_shard_for_every_rank(make_shards):
    megatron_source(make_shards(2), TREE, tensor_parallel=2)
    with pytest.raises(UsageError, match="holds 2 shards, not one for each of 1 ranks") as caught:
        megatron_source(make_shards(2), TREE, tensor_parallel=1)
    assert "--tp 1" in caught.value.hint
    with pytest.raises(UsageError, match="holds 1 shard, not one for each of 2 ranks"):
        megatron_source(make_shards(1), TREE, tensor_parallel=2)


def test_one_answer_at_a_time(make_shards):
    megatron_source(make_shards(1), TREE, max_sequences=1)
    with pytest.raises(UsageError, match="one answer at a time"):
        megatron_source(make_shards(1), TREE, max_sequences=2)
