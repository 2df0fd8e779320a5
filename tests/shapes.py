"""Checkpoints in the shapes that users have, made from upstream's whole one with torch alone.

Nothing here uses the kit: these are the other side of its tests.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

State = dict[str, Any]
Tensors = dict[str, torch.Tensor]


def wrap(encoder: Tensors, table: torch.Tensor | None = None) -> State:
    """Upstream's nesting around the encoder's tensors and, in a checkpoint, the embedding table."""
    embedding = {} if table is None else {"embedding": {"word_embeddings": {"weight": table}}}
    return {"module": {"language_model": {**embedding, "encoder": encoder}}}


def parts(state: State) -> tuple[Tensors, torch.Tensor]:
    """Encoder and embedding table of a checkpoint."""
    model = state["module"]["language_model"]
    return model["encoder"], model["embedding"]["word_embeddings"]["weight"]


def share(name: str, tensor: torch.Tensor, rank: int, ranks: int) -> torch.Tensor:
    """One rank's share of a tensor, cut as upstream's partition tool and parallel layers cut."""
    if re.search(r"query_key_value\.(weight|bias)", name):
        chunks = torch.chunk(tensor, 3 * ranks)
        return torch.cat([chunks[rank + i * ranks] for i in range(3)])
    if re.search(r"dense_h_to_4h\.(weight|bias|lora_B)|query_key_value\.lora_B", name):
        return torch.chunk(tensor, ranks)[rank].clone()
    if re.search(r"(attention\.dense|dense_4h_to_h)\.(weight|lora_A)", name):
        return torch.chunk(tensor, ranks, -1)[rank].clone()
    return tensor


def cut(state: State, ranks: int) -> Iterator[State]:
    """A checkpoint's or adapter's shards."""
    model = state["module"]["language_model"]
    table = parts(state)[1] if "embedding" in model else None
    for rank in range(ranks):
        encoder = {name: share(name, t, rank, ranks) for name, t in model["encoder"].items()}
        yield wrap(encoder, None if table is None else torch.chunk(table, ranks)[rank].clone())


def save_shards(state: State, folder: Path, ranks: int) -> Path:
    """Write a checkpoint's or adapter's shards; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for rank, piece in enumerate(cut(state, ranks)):
        torch.save(piece, folder / f"mp_rank_{rank:02d}_model_states.pt")
    return folder


def lora_state(state: State, rank: int, dtype: torch.dtype = torch.float32) -> State:
    """A random adapter for all matrices of a checkpoint."""
    random = torch.Generator().manual_seed(2)
    adapter: Tensors = {}

    def add(prefix: str, suffix: str, outer: int, inner: int) -> None:
        for factor, shape in (("A", (rank, inner)), ("B", (outer, rank))):
            values = torch.randn(*shape, generator=random).to(dtype)
            adapter[f"{prefix}.lora_{factor}{suffix}.weight"] = values

    for name, tensor in parts(state)[0].items():
        stem = name.removesuffix(".weight")
        if tensor.dim() == 2:
            thirds = ("_Q", "_K", "_V") if stem.endswith("query_key_value") else ("",)
            for third in thirds:
                add(stem, third, tensor.shape[0] // len(thirds), tensor.shape[1])
    return wrap(adapter)


def merged(state: State, adapter: State, scale: float) -> State:
    """``W + (B · A) · scale``, in fp32."""
    encoder, table = parts(state)
    factors = {n: t.float() for n, t in adapter["module"]["language_model"]["encoder"].items()}

    def delta(stem: str, third: str) -> torch.Tensor:
        a, b = (factors[f"{stem}.lora_{factor}{third}.weight"] for factor in "AB")
        return (b @ a) * scale

    result = {}
    for name, tensor in encoder.items():
        stem = name.removesuffix(".weight")
        if f"{stem}.lora_A.weight" in factors:
            tensor = tensor.float() + delta(stem, "")
        elif f"{stem}.lora_A_Q.weight" in factors:
            deltas = torch.cat([delta(stem, f"_{letter}") for letter in "QKV"])
            tensor = tensor.float() + deltas
        result[name] = tensor
    return wrap(result, table)


_MINDSPORE = {
    "input_layernorm.weight": "layer_norm.gamma",
    "input_layernorm.bias": "layer_norm.beta",
    "post_attention_layernorm.weight": "final_layer_norm.gamma",
    "post_attention_layernorm.bias": "final_layer_norm.beta",
    "self_attention.dense": "attention.out_proj",
    "mlp.dense_4h_to_h": "mlp.fc2",
    "final_layernorm.weight": "layernorm.gamma",
    "final_layernorm.bias": "layernorm.beta",
}


def mindspore_parameters(state: State) -> Tensors:
    """A checkpoint's tensors as MindFormers names and separates them."""
    encoder, table = parts(state)
    result = {"transformer.embedding.word_embeddings.embedding_table": table}
    for name, tensor in encoder.items():
        stem, kind = name.rsplit(".", 1)
        if stem.endswith("query_key_value"):
            names = [f"attention.{letter}_proj.{kind}" for letter in "qkv"]
            made = dict(zip(names, torch.chunk(tensor, 3), strict=True))
        elif stem.endswith("dense_h_to_4h"):
            made = {f"mlp.fc0.{kind}": tensor[0::2], f"mlp.fc1.{kind}": tensor[1::2]}
        else:
            ours = next(old for old in _MINDSPORE if name.endswith(old) or stem.endswith(old))
            made = {_MINDSPORE[ours] + ("" if ours.endswith(kind) else f".{kind}"): tensor}
        layer = re.match(r"layers\.\d+\.", name)
        prefix = "transformer.transformer." + (layer[0] if layer else "")
        result |= {prefix + new: values for new, values in made.items()}
    return result


def mindspore_bytes(
    parameters: Tensors, *, max_elements: int = 2**60, widen: bool = False, crc: bool = False
) -> bytes:
    """A ``.ckpt`` file. Larger parameters are cut into values of ``max_elements``.

    ``widen`` stores bfloat16 in four bytes, ``crc`` adds the tail of ``crc_check=True``.
    """
    kinds = {torch.float32: "Float32", torch.float16: "Float16", torch.bfloat16: "BFloat16"}
    file = b""
    for tag, tensor in parameters.items():
        flat = tensor.reshape(-1)
        for start in range(0, flat.numel(), max_elements):
            content = _content(flat[start : start + max_elements], widen)
            file += mindspore_value(tag, kinds[tensor.dtype], tuple(tensor.shape), content)
    return file + (b"crc_num" + bytes(10) if crc else b"")


def mindspore_value(tag: str, kind: str, dims: tuple[int, ...], content: bytes) -> bytes:
    """One entry of a ``.ckpt`` file."""
    return mindspore_header(tag, kind, dims, len(content)) + content


def mindspore_header(tag: str, kind: str, dims: tuple[int, ...], content_bytes: int) -> bytes:
    """What stands before an entry's content."""
    tensor = b"".join(b"\x08" + _varint(size) for size in dims)
    tensor += _length(2, len(kind)) + kind.encode() + _length(3, content_bytes)
    value = _length(1, len(tag)) + tag.encode() + _length(2, len(tensor) + content_bytes) + tensor
    return _length(1, len(value) + content_bytes) + value


def _content(values: torch.Tensor, widen: bool) -> bytes:
    if values.dtype == torch.bfloat16:
        values = values.float() if widen else values.view(torch.int16)
    return bytes(values.numpy().tobytes())


def _length(number: int, nbytes: int) -> bytes:
    return _varint(number << 3 | 2) + _varint(nbytes)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
