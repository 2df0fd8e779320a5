from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.checkpoint.model import read_model
from kit.checkpoint.tensor_parallel import regions, rule_of
from kit.errors import IntegrityError
from tests.shapes import cut, save_shards

MakeState = Callable[..., dict[str, Any]]
LAYER = "layers.1."
REPLICATED = (
    "input_layernorm.weight",
    "input_layernorm.bias",
    "self_attention.dense.bias",
    "post_attention_layernorm.bias",
    "mlp.dense_4h_to_h.bias",
)


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("mp_rank_*"), key=lambda path: int(path.name.split("_")[2]))


def change(path: Path, name: str, to: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
    state = torch.load(path)
    encoder = state["module"]["language_model"]["encoder"]
    tensor = to(encoder.pop(name))
    if tensor is not None:
        encoder[name] = tensor
    torch.save(state, path)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25
)
@given(
    ranks=st.sampled_from([2, 3, 4, 12]),
    heads=st.integers(1, 2),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    chunk_bytes=st.integers(4, 600),
    max_shard_bytes=st.integers(400, 5000),
)
def test_merged_as_if_never_cut(
    tmp_path_factory: pytest.TempPathFactory,
    make_state: MakeState,
    expected: Callable[..., Any],
    converted: Callable[..., Any],
    same_bits: Callable[..., None],
    ranks: int,
    heads: int,
    dtype: torch.dtype,
    **options: int,
) -> None:
    folder = tmp_path_factory.mktemp("tp")
    size = 2 * heads * ranks
    state = make_state(2, size, 3 * ranks, 5 * ranks, dtype, torch.float32)
    save_shards(state, folder, ranks)
    found = converted(shards(folder), folder / "out", "float32", **options)
    same_bits(found, expected(state, torch.float32))


def test_every_rank_is_hashed(
    tmp_path: Path, make_state: MakeState, converted: Callable[..., Any]
) -> None:
    folder = save_shards(make_state(vocab=12), tmp_path, 4)
    done: list[tuple[int, int]] = []
    converted(shards(folder), tmp_path / "out", progress=lambda *call: done.append(call))
    total = sum(path.stat().st_size for path in shards(folder))
    assert done[-1] == (total, total)
    assert done == sorted(done)


def test_missing_and_surplus_ranks_are_counted(tmp_path: Path, make_state: MakeState) -> None:
    paths = shards(save_shards(make_state(vocab=12), tmp_path, 4))
    with pytest.raises(IntegrityError, match="holds 2 of 4 tensor-parallel shards") as caught:
        read_model(paths[:2])
    assert "mp_rank_03" in caught.value.hint
    assert "rank 02" in caught.value.hint
    with pytest.raises(IntegrityError, match="holds 1 of 4"):
        read_model(paths[:1])
    with pytest.raises(IntegrityError, match="5 shards of a checkpoint that was cut into 4"):
        read_model([*paths, paths[0]])


@pytest.mark.parametrize(
    ("name", "to", "message"),
    [
        ("input_layernorm.bias", lambda t: None, r"mp_rank_01.* lacks .*input_layernorm\.bias"),
        (
            "mlp.dense_h_to_4h.bias",
            lambda t: t[:-2].clone(),
            r"float32 \[1[02]\] in .* but float32 \[1[02]\] in",
        ),
        ("self_attention.dense.weight", lambda t: t.half(), "float(32|16) .* but float(16|32)"),
    ],
)
def test_ranks_that_disagree(
    tmp_path: Path, make_state: MakeState, name: str, to: Callable[..., Any], message: str
) -> None:
    paths = shards(save_shards(make_state(vocab=12), tmp_path, 2))
    change(paths[1], LAYER + name, to)
    with pytest.raises(IntegrityError, match=message):
        read_model(paths)
    with pytest.raises(IntegrityError, match=message):
        read_model(paths[::-1])


@pytest.mark.parametrize("name", REPLICATED)
def test_replicated_tensors_must_be_equal(
    tmp_path: Path, make_state: MakeState, converted: Callable[..., Any], name: str
) -> None:
    paths = shards(save_shards(make_state(hidden=12, vocab=12), tmp_path, 3))
    change(paths[2], LAYER + name, lambda t: torch.cat([t[:-1], t[-1:] + 1]))
    with pytest.raises(IntegrityError, match=rf"encoder\.{LAYER}{name} must be the same") as caught:
        converted(paths, tmp_path / "out")
    assert "mp_rank_02" in caught.value.message


def test_thirds_that_are_none(tmp_path: Path, make_state: MakeState) -> None:
    paths = shards(save_shards(make_state(vocab=12), tmp_path, 2))
    for path in paths:
        change(path, LAYER + "self_attention.query_key_value.bias", lambda t: t[:-1].clone())
    with pytest.raises(IntegrityError, match=r"query_key_value\.bias cannot have the shape \[11\]"):
        read_model(paths)


def test_regions_are_torchs_chunks(make_state: MakeState) -> None:
    """Every element of every tensor, on the rank and at the place that cutting puts it."""
    state = make_state(1, 12, 12, 12)
    numbers = {
        name: torch.arange(tensor.numel()).reshape(tensor.shape)
        for name, tensor in state["module"]["language_model"]["encoder"].items()
    }
    state["module"]["language_model"]["encoder"] = numbers
    for rank, piece in enumerate(cut(state, 3)):
        for name, tensor in piece["module"]["language_model"]["encoder"].items():
            matrix = numbers[name].reshape(len(numbers[name]), -1)
            places = regions(rule_of(f"encoder.{name}"), *matrix.shape, rank, 3)
            found = [matrix[rows][:, columns].flatten() for rows, columns in places]
            assert torch.equal(torch.cat(found), tensor.flatten()), name
