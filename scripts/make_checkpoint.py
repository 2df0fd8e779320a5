"""Make a checkpoint of any size in upstream's file format: random weights, realistic tensor sizes.

For benchmarks. The file is what ``torch.save`` would write (torch.load opens it, its CRC-32s are
right), but it is written chunk by chunk, so that a 53 GB file needs no 53 GB of memory:

    python scripts/make_checkpoint.py /data/random --gigabytes 2
    python scripts/make_checkpoint.py /data/random --layers 40     # as large as the 13B
"""

import argparse
import io
import json
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._utils import _rebuild_tensor_v2

CHUNK_ELEMENTS = 1 << 22
_LOCAL_HEADER_BYTES = 30
_ZIP64_EXTRA_BYTES = 20
_ALIGNMENT = 64


@dataclass(frozen=True)
class Sizes:
    """A Spark model's dimensions; the defaults are the 13B's (``ffn`` after gating)."""

    layers: int = 40
    hidden: int = 5120
    ffn: int = 14336
    vocab: int = 60000


@dataclass(frozen=True)
class Storage:
    """A tensor's bytes: member ``data/<key>`` of the archive."""

    key: str
    numel: int


@dataclass(frozen=True)
class Tensor:
    """Pickled as torch pickles a contiguous tensor."""

    storage: Storage
    shape: tuple[int, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        strides = tuple(math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape)))
        rebuild: tuple[Any, ...] = (self.storage, 0, self.shape, strides, False, OrderedDict())
        return _rebuild_tensor_v2, rebuild


class TorchPickler(pickle.Pickler):
    """Names storages as torch does, instead of pickling them."""

    def persistent_id(self, value: object) -> tuple[Any, ...] | None:
        """Torch's name of a storage; None pickles the value itself."""
        if isinstance(value, Storage):
            return "storage", torch.FloatStorage, value.key, "cpu", value.numel
        return None


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


def state(sizes: Sizes) -> tuple[dict[str, Any], list[Storage]]:
    """The object to pickle, and the storages in the order of their keys."""
    storages: list[Storage] = []

    def tensor(shape: tuple[int, ...]) -> Tensor:
        storages.append(Storage(str(len(storages)), math.prod(shape)))
        return Tensor(storages[-1], shape)

    embedding = {"word_embeddings": {"weight": tensor((sizes.vocab, sizes.hidden))}}
    encoder = {
        f"layers.{layer}.{name}": tensor(shape)
        for layer in range(sizes.layers)
        for name, shape in layer_shapes(sizes.hidden, sizes.ffn)
    }
    encoder |= {f"final_layernorm.{kind}": tensor((sizes.hidden,)) for kind in ("weight", "bias")}
    return {"module": {"language_model": {"embedding": embedding, "encoder": encoder}}}, storages


def write_checkpoint(path: Path, sizes: Sizes, seed: int) -> None:
    """Write the archive: the pickle, the byte order, then the storages, aligned as torch does."""
    root, storages = state(sizes)
    pickled = io.BytesIO()
    TorchPickler(pickled, protocol=2).dump(root)
    random = np.random.default_rng(seed)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, content in (
            ("data.pkl", pickled.getvalue()),
            ("byteorder", b"little"),
            ("version", b"3\n"),
        ):
            archive.writestr(f"{path.stem}/{name}", content)
        for storage in storages:
            with archive.open(_member(archive, path.stem, storage), "w", force_zip64=True) as file:
                for chunk in chunks(random, storage.numel):
                    file.write(chunk.data)


def chunks(random: np.random.Generator, numel: int) -> Iterator[np.ndarray[Any, Any]]:
    """``numel`` normal fp32 values of the size that trained weights have."""
    for start in range(0, numel, CHUNK_ELEMENTS):
        values = random.standard_normal(min(CHUNK_ELEMENTS, numel - start), np.float32)
        values *= np.float32(0.02)
        yield values


def _member(archive: zipfile.ZipFile, prefix: str, storage: Storage) -> zipfile.ZipInfo:
    """A member whose bytes start at a multiple of 64, by padding in its extra field."""
    info = zipfile.ZipInfo(f"{prefix}/data/{storage.key}")
    before = _LOCAL_HEADER_BYTES + len(info.filename) + _ZIP64_EXTRA_BYTES + 4
    padding = -(archive.fp.tell() + before) % _ALIGNMENT if archive.fp else 0
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    return info


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
