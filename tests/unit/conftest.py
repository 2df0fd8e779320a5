"""Checkpoints in upstream's format, made with torch.save."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

State = dict[str, Any]


def spark_state(
    layers: int = 2,
    hidden: int = 8,
    ffn: int = 12,
    vocab: int = 11,
    dtype: torch.dtype = torch.float32,
    norm_dtype: torch.dtype | None = None,
) -> State:
    """A random checkpoint as upstream saves it; LayerNorms may be of another type."""
    random = torch.Generator().manual_seed(1)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random).to(dtype)

    def norm(name: str) -> State:
        of = norm_dtype or dtype
        return {f"{name}.{kind}": tensor(hidden).to(of) for kind in ("weight", "bias")}

    def linear(name: str, outer: int, inner: int) -> State:
        return {f"{name}.weight": tensor(outer, inner), f"{name}.bias": tensor(outer)}

    encoder: State = {}
    for layer in range(layers):
        prefix = f"layers.{layer}."
        encoder |= norm(prefix + "input_layernorm")
        encoder |= linear(prefix + "self_attention.query_key_value", 3 * hidden, hidden)
        encoder |= linear(prefix + "self_attention.dense", hidden, hidden)
        encoder |= norm(prefix + "post_attention_layernorm")
        encoder |= linear(prefix + "mlp.dense_h_to_4h", 2 * ffn, hidden)
        encoder |= linear(prefix + "mlp.dense_4h_to_h", hidden, ffn)
    encoder |= norm("final_layernorm")
    embedding = {"word_embeddings": {"weight": tensor(vocab, hidden)}}
    return {"module": {"language_model": {"embedding": embedding, "encoder": encoder}}}


def expected_tensors(state: State, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """What the converted directory must hold, made from ``state`` with torch alone."""
    model = state.get("module", state)["language_model"]
    table = model["embedding"]["word_embeddings"]["weight"]
    result = {"model.embed_tokens.weight": table}
    for name, tensor in model["encoder"].items():
        stem, kind = name.rsplit(".", 1)
        if stem.endswith("query_key_value"):
            stem = stem.removesuffix("self_attention.query_key_value") + "self_attn."
            thirds = zip("qkv", torch.chunk(tensor, 3), strict=True)
            result |= {f"model.{stem}{letter}_proj.{kind}": third for letter, third in thirds}
        elif stem.endswith("dense_h_to_4h"):
            stem = stem.removesuffix("dense_h_to_4h")
            result[f"model.{stem}gate_proj.{kind}"] = tensor[0::2]
            result[f"model.{stem}up_proj.{kind}"] = tensor[1::2]
        else:
            stem = stem.replace("self_attention.dense", "self_attn.o_proj")
            stem = stem.replace("dense_4h_to_h", "down_proj").replace("final_layernorm", "norm")
            result[f"model.{stem}.{kind}"] = tensor
    return {name: tensor.to(dtype).contiguous() for name, tensor in result.items()}


@pytest.fixture(scope="session")
def make_state() -> Callable[..., State]:
    return spark_state


@pytest.fixture(scope="session")
def expected() -> Callable[[State, torch.dtype], dict[str, torch.Tensor]]:
    return expected_tensors


@pytest.fixture
def save(tmp_path: Path) -> Callable[[object], Path]:
    """Saves an object as the checkpoint file of a new folder."""

    def save_in(state: object, folder: str = "ckpt") -> Path:
        path = tmp_path / folder / "mp_rank_00_model_states.pt"
        path.parent.mkdir(exist_ok=True)
        torch.save(state, path)
        return path

    return save_in
