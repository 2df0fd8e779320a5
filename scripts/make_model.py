"""Make a converted directory of any size with random weights, without the checkpoint before it.

For measurements. Everything that serves a model takes it for one that `kit weights convert` made:

    python scripts/make_model.py /data/random-int4 --precision int4              # as the 13B
    python scripts/make_model.py /data/small --layers 8 --hidden 512 --ffn 1408
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
from make_checkpoint import Sizes

from kit.checkpoint.encoding import Stored
from kit.checkpoint.layout import Dimensions
from kit.checkpoint.shards import INDEX_NAME, Shard, index_json, plan_shards
from kit.memory.plan.shape import DTYPES, Precision
from kit.proof.simulate.files import mappings
from kit.settings import bundled
from kit.units import MIB
from kit.weights.convert.facts import model_config
from kit.weights.convert.support_files import write_support_files

BLOCK_BYTES = 16 * MIB
TOKENIZER = bundled("demo") / "tokenizer" / "tokenizer.model"


def write_model(
    directory: Path,
    sizes: Sizes,
    precision: Precision,
    *,
    context: int = 32768,
    window: int | None = 8192,
    tokenizer: Path = TOKENIZER,
) -> None:
    """Write the tensors and everything beside them. ``directory`` is made."""
    dimensions = Dimensions(sizes.layers, sizes.hidden, sizes.ffn, sizes.vocab)
    dtype = DTYPES[precision]
    directory.mkdir(parents=True, exist_ok=True)
    arguments = {"seq_length": context, "localsize": window}
    write_support_files(directory, model_config(dimensions, dtype, arguments), tokenizer)
    shards = plan_shards(tuple(mappings(dimensions)), dtype, converted=False)
    for shard in shards:
        write_shard(directory / shard.name, shard)
    if len(shards) > 1:
        (directory / INDEX_NAME).write_bytes(index_json(shards))


def write_shard(path: Path, shard: Shard) -> None:
    """One safetensors file: its header, then every tensor at its place."""
    with path.open("wb") as file:
        file.write(shard.header)
        for target in sorted(shard.targets, key=lambda target: target.offset):
            file.seek(target.offset)
            for piece in content(target.stored):
                file.write(piece)


def content(stored: Stored) -> Iterator[memoryview | bytes]:
    """The bytes of a tensor, a block at a time: one random block over and over."""
    if stored.constant is not None:
        yield stored.constant
        return
    block = random_block(stored)
    for start in range(0, stored.nbytes, BLOCK_BYTES):
        yield block[: min(BLOCK_BYTES, stored.nbytes - start)]


def random_block(stored: Stored) -> memoryview:
    """Normal values of the size that trained weights have; any integers, and scales for them."""
    random = np.random.default_rng(0)
    nbytes = min(BLOCK_BYTES, stored.nbytes)
    if stored.dtype not in ("BF16", "F32"):
        return memoryview(random.bytes(nbytes))
    values = random.standard_normal(nbytes // (2 if stored.dtype == "BF16" else 4), np.float32)
    values *= np.float32(0.02)
    if stored.name.endswith("_scale"):
        values = np.full_like(values, 0.0005)
    if stored.dtype == "BF16":
        values = values.astype(ml_dtypes.bfloat16)
    return values.view(np.uint8).data


def main() -> None:
    """Make the directory."""
    parser = argparse.ArgumentParser(description="Make a converted directory of random weights.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--precision", choices=DTYPES, default="bf16")
    parser.add_argument("--context", type=int, default=32768)
    parser.add_argument("--window", type=int, default=8192, help="0 for none")
    for name, default in vars(Sizes()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    sizes = Sizes(options.layers, options.hidden, options.ffn, options.vocab)
    write_model(
        options.directory,
        sizes,
        options.precision,
        context=options.context,
        window=options.window or None,
    )
    total = sum(path.stat().st_size for path in options.directory.glob("*.safetensors"))
    print(f"{options.directory}: {total / 1e9:.2f} GB, {options.precision}, {sizes}")


if __name__ == "__main__":
    main()
