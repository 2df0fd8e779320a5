"""Upstream's command line."""

import json
import shutil

from kit.serve.megatron.folder import read_folder, upstream_arguments


def options(arguments: tuple[str, ...]) -> dict[str, str]:
    return dict(text.removeprefix("--").partition("=")[::2] for text in arguments)


def test_shapes_come_from_the_checkpoint(make_shards):
    folder = read_folder(make_shards(2))
    given = options(upstream_arguments(folder, context=300, dtype="bfloat16", device="cuda"))
    assert given["tensor-model-parallel-size"] == "2"
    assert (given["num-layers"], given["hidden-size"], given["ffn-hidden-size"]) == (
        "4",
        "64",
        "128",
    )
    assert (given["num-attention-heads"], given["localsize"]) == ("4", "256")
    assert given["vocab-size"] == "1999"
    assert given["distributed-backend"] == "nccl"
    assert given["from-pretrained"] == str(make_shards(2))
    assert "bf16" in given


def test_lengths_are_whole_blocks_of_the_mask_and_never_limited_otherwise(make_shards):
    folder = read_folder(make_shards(1))
    given = options(upstream_arguments(folder, context=300, dtype="float32", device="cpu"))
    lengths = {given[n] for n in ("seq-length", "max-position-embeddings", "max-tokens-to-oom")}
    assert lengths == {"384"}
    assert given["distributed-backend"] == "gloo"
    assert not {"bf16", "fp16"} & given.keys()


def test_no_window_is_none(make_shards, tmp_path):
    place = shutil.copytree(make_shards(1), tmp_path / "checkpoint")
    arguments = json.loads((place / "config.json").read_text()) | {"localsize": 0}
    (place / "config.json").write_text(json.dumps(arguments))
    folder = read_folder(place)
    given = options(upstream_arguments(folder, context=300, dtype="float16", device="cpu"))
    assert "localsize" not in given
    assert "fp16" in given
