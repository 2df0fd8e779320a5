"""The two ways of loading, and upstream's own: the same tokens, other memory."""

import pytest

STOCK = ["portability"]
CPU_FIRST = ["portability", "loading-cpu-first"]
STREAM = ["portability", "loading-stream"]


def test_all_ways_load_the_same_weights(tree, probe):
    found = [probe(tree(groups), "generate") for groups in (STOCK, CPU_FIRST, STREAM)]
    assert [run.code for run in found] == [0, 0, 0], found
    assert len({tuple(run.found) for run in found}) == 1


def test_cpu_first_puts_checkpoint_and_weights_on_the_cpu(tree, probe):
    assert probe(tree(STOCK), "load_devices").found == ["meta", "meta"]
    assert probe(tree(CPU_FIRST), "load_devices").found == ["cpu", "cpu"]


def test_a_stream_draws_nothing_and_maps_what_it_can(tree, probe):
    stock = probe(tree(STOCK), "weights", hidden=768)
    stream = probe(tree(STREAM), "weights", hidden=768)
    assert stock.found["drawn"] > 0
    assert stock.found["peak_by_size"] > 1.8, stock
    assert stream.found["drawn"] == 0
    assert stream.found["peak_by_size"] < 0.5, stream


def test_a_stream_casts_on_the_way(tree, probe):
    stock = probe(tree(STOCK), "weights", "--bf16", hidden=768)
    stream = probe(tree(STREAM), "weights", "--bf16", hidden=768)
    assert stock.found["peak_by_size"] > 2.8, stock  # fp32 beside bf16
    assert stream.found["peak_by_size"] < 1.6, stream


TRAINING = ("pretrain_iFlytekSpark", "sft_iFlytekSpark")


@pytest.mark.parametrize("script", TRAINING)
def test_training_puts_checkpoint_and_weights_on_the_cpu_first(tree, probe, script):
    option = f"--script={script}"
    assert probe(tree(STOCK), "load_devices", option).found == ["meta", "meta"]
    assert probe(tree(CPU_FIRST), "load_devices", option).found == ["cpu", "cpu"]


@pytest.mark.parametrize("script", TRAINING)
def test_training_streams_too(tree, probe, script):
    option = f"--script={script}"
    stock = probe(tree(STOCK), "weights", option, "--bf16", hidden=768)
    stream = probe(tree(STREAM), "weights", option, "--bf16", hidden=768)
    assert stock.found["drawn"] > 0
    assert stock.found["peak_by_size"] > 2.8, stock
    assert stream.found["drawn"] == 0
    assert stream.found["peak_by_size"] < 1.6, stream
