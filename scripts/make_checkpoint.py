"""Make a checkpoint of any size in upstream's file format: random weights, realistic tensor sizes.

For benchmarks. torch.load opens it. It is written chunk by chunk, so that a file of 53 GB needs no
53 GB of memory:

    python scripts/make_checkpoint.py /data/random --gigabytes 2
    python scripts/make_checkpoint.py /data/random --layers 40     # as large as the 13B
"""

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kit.checkpoint.shard_export import TorchWriter, Tree

CHUNK_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Sizes:
    """A Spark model's dimensions; the defaults are the 13B's (``ffn`` after gating)."""

    layers: int = 40
    hidden: int = 5120
    ffn: int = 14336
    vocab: int = 60000


def sizes_of(total_bytes: int) -> Sizes:
    """Dimensions of about ``total_bytes`` in fp32: as many layers as leave a quarter or more for
    the embedding table, which takes the rest. The 13B's widths, or half of them below 2 GB.
    """
    hidden, ffn = (5120, 14336) if total_bytes >= 2 * 10**9 else (2560, 7168)
    layer_bytes = 4 * sum(math.prod(shape) for _, shape in layer_shapes(hidden, ffn))
    layers = max(1, int(total_bytes * 0.75 / layer_bytes))
    vocab = (total_bytes - layers * layer_bytes) // (4 * hidden) // 64 * 64
    if vocab <= 0:
        raise SystemExit(f"at least {layer_bytes + 256 * hidden} bytes are needed")
    return Sizes(layers, hidden, ffn, vocab)


def layer_shapes(hidden: int, ffn: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Upstream's names and shapes of one layer's tensors."""
    for name, outer, inner in (
        ("input_layernorm", hidden, None),
        ("self_attention.query_key_value", 3 * hidden, hidden),
        ("self_attention.dense", hidden, hidden),
        ("post_attention_layernorm", hidden, None),
        ("mlp.dense_h_to_4h", 2 * ffn, hidden),
        ("mlp.dense_4h_to_h", hidden, ffn),
    ):
        yield f"{name}.weight", (outer,) if inner is None else (outer, inner)
        yield f"{name}.bias", (outer,)


def tree(sizes: Sizes) -> Tree:
    """Upstream's nested names, with shapes at the leaves."""
    encoder = {
        f"layers.{layer}.{name}": shape
        for layer in range(sizes.layers)
        for name, shape in layer_shapes(sizes.hidden, sizes.ffn)
    }
    encoder |= {f"final_layernorm.{kind}": (sizes.hidden,) for kind in ("weight", "bias")}
    embedding = {"word_embeddings": {"weight": (sizes.vocab, sizes.hidden)}}
    return {"module": {"language_model": {"embedding": embedding, "encoder": encoder}}}


def leaves(branch: Tree) -> Iterator[tuple[int, ...]]:
    """All shapes of a tree, in its order."""
    for value in branch.values():
        yield from [value] if isinstance(value, tuple) else leaves(value)


def write_checkpoint(path: Path, sizes: Sizes, seed: int) -> None:
    """Fill the file with normal values of the size that trained weights have."""
    random = np.random.default_rng(seed)
    content = tree(sizes)
    with TorchWriter(path, content, "float32") as writer:
        for shape in leaves(content):
            with writer.tensor(shape) as write:
                numel = math.prod(shape)
                for start in range(0, numel, CHUNK_ELEMENTS):
                    count = min(CHUNK_ELEMENTS, numel - start)
                    values = random.standard_normal(count, np.float32) * np.float32(0.02)
                    write(values.data.cast("B"))


def write_arguments(path: Path, sizes: Sizes) -> None:
    """The dimensions by the names of upstream's arguments."""
    arguments = {
        "num_layers": sizes.layers,
        "hidden_size": sizes.hidden,
        "ffn_hidden_size": sizes.ffn,
        "num_attention_heads": sizes.hidden // 128,
        "vocab_size": sizes.vocab,
        "seq_length": 2048,
    }
    path.write_text(json.dumps(arguments, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Make the folder with checkpoint and configuration."""
    parser = argparse.ArgumentParser(description="Make a random checkpoint in upstream's format.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, help="choose dimensions of about this size")
    parser.add_argument("--seed", type=int, default=0)
    for name, default in vars(Sizes()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    sizes = Sizes(options.layers, options.hidden, options.ffn, options.vocab)
    if options.gigabytes is not None:
        sizes = sizes_of(int(options.gigabytes * 10**9))
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / "mp_rank_00_model_states.pt"
    write_checkpoint(path, sizes, options.seed)
    write_arguments(options.folder / "config.json", sizes)
    print(f"{path}: {path.stat().st_size / 1e9:.2f} GB, {sizes}")


if __name__ == "__main__":
    main()
