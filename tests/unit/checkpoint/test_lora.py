import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.checkpoint.lora import read_adapter, require_fit
from kit.checkpoint.model import read_model
from kit.errors import IntegrityError, UnsafePickle
from tests.shapes import lora_state, merged, save_shards, wrap

MakeState = Callable[..., dict[str, Any]]
RANKS = st.sampled_from([1, 2, 4])


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("mp_rank_*"))


def close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Products of fp32 numbers, added in some order."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, rtol=1e-5, atol=1e-4), name


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25
)
@given(
    base_ranks=RANKS,
    lora_ranks=RANKS,
    rank=st.integers(1, 9),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    factors=st.sampled_from([torch.float32, torch.bfloat16]),
    scale=st.sampled_from([0.3, 8.0, 32.0]),
    chunk_bytes=st.integers(4, 900),
)
def test_merged_by_the_formula_for_any_cut_of_base_and_adapter(
    tmp_path: Path,
    make_state: MakeState,
    expected: Callable[..., Any],
    converted: Callable[..., Any],
    base_ranks: int,
    lora_ranks: int,
    rank: int,
    dtype: torch.dtype,
    factors: torch.dtype,
    scale: float,
    chunk_bytes: int,
) -> None:
    for name in ("base", "lora", "out"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    state = make_state(2, 8, 12, 12, dtype)
    adapter = lora_state(state, rank, factors)
    base = shards(save_shards(state, tmp_path / "base", base_ranks))
    lora = shards(save_shards(adapter, tmp_path / "lora", lora_ranks))
    found = converted(base, tmp_path / "out", lora=lora, scale=scale, chunk_bytes=chunk_bytes)
    close(found, expected(merged(state, adapter, scale), torch.float32))


@pytest.mark.parametrize("rank", [1, 4, 8, 64])
def test_an_fp32_merge_is_torchs_bit_for_bit(
    tmp_path: Path,
    make_state: MakeState,
    expected: Callable[..., Any],
    converted: Callable[..., Any],
    same_bits: Callable[..., None],
    rank: int,
) -> None:
    state = make_state(1, 64, 96, 16)
    adapter = lora_state(state, rank)
    base = shards(save_shards(state, tmp_path / "base", 2))
    lora = shards(save_shards(adapter, tmp_path / "lora", 1))
    options = {"lora": lora, "scale": 256 / rank, "chunk_bytes": 9000}
    found = converted(base, tmp_path / "out", **options)
    same_bits(found, expected(merged(state, adapter, 256 / rank), torch.float32))


def test_a_bf16_result_is_rounded_once(
    tmp_path: Path,
    make_state: MakeState,
    expected: Callable[..., Any],
    converted: Callable[..., Any],
    same_bits: Callable[..., None],
) -> None:
    state = make_state(1, 64, 96, 16, torch.bfloat16)
    adapter = lora_state(state, 8)
    base = shards(save_shards(state, tmp_path / "base", 1))
    lora = shards(save_shards(adapter, tmp_path / "lora", 1))
    found = converted(base, tmp_path / "out", "bfloat16", lora=lora, scale=4.0)
    same_bits(found, expected(merged(state, adapter, 4.0), torch.bfloat16))


def test_only_some_matrices_may_be_adapted(
    tmp_path: Path,
    make_state: MakeState,
    expected: Callable[..., Any],
    converted: Callable[..., Any],
) -> None:
    state = make_state()
    factors = lora_state(state, 2)["module"]["language_model"]["encoder"]
    some = wrap({n: t for n, t in factors.items() if "_Q" in n or "layers.1.mlp" in n})
    base = shards(save_shards(state, tmp_path / "base", 1))
    lora = shards(save_shards(some, tmp_path / "lora", 1))
    assert len(read_adapter(lora).factors) == 1 + 1 + 3
    found = converted(base, tmp_path / "out", lora=lora, scale=2.0)
    wanted = expected(state, torch.float32)
    changed = {name for name, tensor in found.items() if not torch.equal(tensor, wanted[name])}
    assert changed == read_adapter(lora).factors.keys()


def test_all_files_are_hashed_and_a_change_starts_over(
    tmp_path: Path, make_state: MakeState, converted: Callable[..., Any]
) -> None:
    state = make_state()
    base = shards(save_shards(state, tmp_path / "base", 1))
    lora = shards(save_shards(lora_state(state, 2), tmp_path / "lora", 2))
    out = tmp_path / "out"
    before = converted(base, out, lora=lora, scale=2.0)
    assert len(json.loads((out / ".progress.json").read_text())["sources"]) == 3
    again = converted(base, out, lora=lora, scale=3.0)
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(before[name], again[name])


def rewritten(state: dict[str, Any], to: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    encoder = dict(state["module"]["language_model"]["encoder"])
    to(encoder)
    return wrap(encoder)


A = "layers.1.self_attention.dense.lora_A.weight"


@pytest.mark.parametrize(
    ("to", "message"),
    [
        (lambda e: e.pop(A), r"lora_B\.weight has no counterpart"),
        (lambda e: e.update({A: torch.ones(3, 8)}), "are no pair of factors"),
        (lambda e: e.update({A: torch.ones(8)}), "are no pair of factors"),
        (lambda e: e.update({"layers.0.mlp.dense_h_to_4h.bias": torch.ones(3)}), "no factor"),
        (lambda e: e.update({"layers.0.mlp.gate.lora_A.weight": torch.ones(2, 8)}), "no factor"),
        (
            lambda e: e.update({A: torch.ones(3, 8), A.replace("_A", "_B"): torch.ones(8, 3)}),
            "2, 3",
        ),
    ],
)
def test_adapters_that_make_no_sense(
    tmp_path: Path, make_state: MakeState, to: Callable[..., Any], message: str
) -> None:
    folder = save_shards(rewritten(lora_state(make_state(), 2), to), tmp_path, 1)
    with pytest.raises(IntegrityError, match=message):
        read_adapter(shards(folder))


def test_an_adapter_for_another_model(tmp_path: Path, make_state: MakeState) -> None:
    model = read_model(shards(save_shards(make_state(), tmp_path / "base", 1)))
    for other, message in (
        (make_state(hidden=16), r"q_proj\.weight is \[16, 16\], the model's is of shape \[8, 8\]"),
        (make_state(layers=3), r"layers\.2\..* the model's is not there"),
    ):
        folder = save_shards(lora_state(other, 2), tmp_path / "lora", 1)
        with pytest.raises(IntegrityError, match=message) as caught:
            require_fit(read_adapter(shards(folder)), model.shapes())
        assert "trained on" in caught.value.hint


def test_an_adapters_pickle_is_not_run_either(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return print, ("run",)

    torch.save({"module": Evil()}, tmp_path / "mp_rank_00_model_states.pt")
    with pytest.raises(UnsafePickle):
        read_adapter(shards(tmp_path))
